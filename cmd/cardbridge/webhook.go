package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/server/api/client"
	"github.com/cardbridge/cardbridge/server/webhook"
)

const testWait = 30 * time.Second // for a test message to be delivered

func newWebhookCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "webhook",
		Short: "The HTTPS endpoints that a server tells what becomes of requests",
		Long: `The HTTPS endpoints that a server tells what becomes of an operator's requests,
signed as Standard Webhooks says (docs/webhooks.md). These commands take the
token of a user with the role administer.`,
	}
	cmd.AddCommand(newWebhookAddCmd(), newWebhookListCmd(), newWebhookRemoveCmd(), newWebhookRotateCmd(), newWebhookEnableCmd(),
		newWebhookDeliveriesCmd(), newWebhookRetryCmd(), newWebhookTestCmd())
	return cmd
}

func newWebhookAddCmd() *cobra.Command {
	var types []string
	cmd := remoteCmd("add [--type TYPE]... URL", "Have an endpoint told, and print its secret, this once",
		`Has an endpoint told what becomes of the operator's requests, and prints the
secret that its messages are signed under. The server shows it this once.

  cardbridge webhook add --server https://cards.example:8443 --token-file token --pin … https://oss.example.com/cardbridge`,
		cobra.ExactArgs(1), func(ctx context.Context, p *printer, c *client.Client, args []string) error {
			in := client.WebhookRequest{URL: args[0]}
			for _, t := range types {
				in.Types = append(in.Types, client.WebhookRequestTypes(t))
			}
			w, err := c.AddWebhook(ctx, client.AddWebhookParams{}, in)
			if err != nil {
				return err
			}
			return p.secret(w)
		})
	cmd.Flags().StringSliceVar(&types, "type", nil, "what it is told: "+strings.Join(webhook.Types, ", ")+" (default: all)")
	return cmd
}

func newWebhookListCmd() *cobra.Command {
	return remoteCmd("list", "List the endpoints", "", cobra.NoArgs, func(ctx context.Context, p *printer, c *client.Client, _ []string) error {
		list, err := c.ListWebhooks(ctx)
		if err != nil {
			return err
		}
		if p.json {
			return p.object(list)
		}
		t := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
		for _, w := range list.Webhooks {
			state := "told"
			switch {
			case w.DisabledAt != nil:
				state = "disabled: " + w.DisabledWhy
			case w.FailingSince != nil:
				state = "failing since " + when(*w.FailingSince)
			}
			types := strings.Join(w.Types, ",")
			if types == "" {
				types = "all"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", w.ID, w.URL, types, state)
		}
		return t.Flush()
	})
}

func newWebhookRemoveCmd() *cobra.Command {
	return remoteCmd("remove ID", "Remove an endpoint, and what it is still to be told", "", cobra.ExactArgs(1),
		func(ctx context.Context, p *printer, c *client.Client, args []string) error {
			if err := c.RemoveWebhook(ctx, args[0]); err != nil {
				return err
			}
			if p.json {
				return p.object(map[string]string{"removed": args[0]})
			}
			_, err := fmt.Fprintln(p.out, "removed", args[0])
			return err
		})
}

func newWebhookRotateCmd() *cobra.Command {
	var overlap time.Duration
	cmd := remoteCmd("rotate [--overlap DURATION] ID", "Give an endpoint a new secret and print it, this once",
		`Gives an endpoint a new secret and prints it. Messages are signed under the one
until now too while the overlap lasts, so that the receiver has time to change.`,
		cobra.ExactArgs(1), func(ctx context.Context, p *printer, c *client.Client, args []string) error {
			seconds := int64(overlap / time.Second)
			w, err := c.RotateWebhook(ctx, args[0], client.Rotation{OverlapSeconds: &seconds})
			if err != nil {
				return err
			}
			return p.secret(w)
		})
	cmd.Flags().DurationVar(&overlap, "overlap", 24*time.Hour, "how long the secret until now stays good")
	return cmd
}

func newWebhookEnableCmd() *cobra.Command {
	return remoteCmd("enable ID", "Have an endpoint told again that was disabled, of what waited too", "", cobra.ExactArgs(1),
		func(ctx context.Context, p *printer, c *client.Client, args []string) error {
			w, err := c.EnableWebhook(ctx, args[0])
			if err != nil {
				return err
			}
			if p.json {
				return p.object(w)
			}
			_, err = fmt.Fprintln(p.out, "enabled", w.ID)
			return err
		})
}

func newWebhookDeliveriesCmd() *cobra.Command {
	var limit int64
	cmd := remoteCmd("deliveries [--limit N] ID", "List what an endpoint was or is to be told, newest first", "", cobra.ExactArgs(1),
		func(ctx context.Context, p *printer, c *client.Client, args []string) error {
			list, err := c.ListDeliveries(ctx, args[0], client.ListDeliveriesParams{Limit: limit})
			if err != nil {
				return err
			}
			if p.json {
				return p.object(list)
			}
			t := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
			for _, d := range list.Deliveries {
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", when(d.CreatedAt), d.ID, d.Type, d.RequestID, told(&d))
			}
			return t.Flush()
		})
	cmd.Flags().Int64Var(&limit, "limit", 50, "how many, 100 at most")
	return cmd
}

func newWebhookRetryCmd() *cobra.Command {
	return remoteCmd("retry ID MESSAGE", "Send an endpoint a message at once, also one that was delivered or given up", "", cobra.ExactArgs(2),
		func(ctx context.Context, p *printer, c *client.Client, args []string) error {
			d, err := c.RetryDelivery(ctx, args[0], args[1])
			if err != nil {
				return err
			}
			return p.delivery(d)
		})
}

func newWebhookTestCmd() *cobra.Command {
	return remoteCmd("test ID", "Send an endpoint a test message and say what came of it", "", cobra.ExactArgs(1),
		func(ctx context.Context, p *printer, c *client.Client, args []string) error {
			d, err := c.TestWebhook(ctx, args[0], client.TestWebhookParams{})
			if err != nil {
				return err
			}
			sent, cancel := context.WithTimeout(ctx, testWait)
			defer cancel()
			for len(d.Attempts) == 0 {
				select {
				case <-sent.Done():
					return fmt.Errorf("the test message %s was not sent within %s; webhook deliveries %s shows when it is", d.ID, testWait, args[0])
				case <-time.After(100 * time.Millisecond):
				}
				list, err := c.ListDeliveries(ctx, args[0], client.ListDeliveriesParams{})
				if err != nil {
					return err
				}
				for _, now := range list.Deliveries {
					if now.ID == d.ID {
						d = &now
					}
				}
			}
			if err := p.delivery(d); err != nil {
				return err
			}
			if d.State != "delivered" {
				return exitStatus(exitError)
			}
			return nil
		})
}

// secret prints an endpoint with its secret.
func (p *printer) secret(w *client.Webhook) error {
	if p.json {
		return p.object(w)
	}
	fmt.Fprintf(p.err, "webhook %s to %s; this is its secret, not shown again:\n", w.ID, w.URL)
	_, err := fmt.Fprintln(p.out, w.Secret)
	return err
}

func (p *printer) delivery(d *client.Delivery) error {
	if p.json {
		return p.object(d)
	}
	_, err := fmt.Fprintf(p.out, "%s %s\n", d.ID, told(d))
	return err
}

// told says in words how a message fares.
func told(d *client.Delivery) string {
	text := string(d.State)
	if n := len(d.Attempts); n > 0 {
		last := d.Attempts[n-1]
		why := last.Error
		if why == "" {
			why = fmt.Sprintf("it answered %d in %d ms", last.Status, last.TookMs)
		}
		text += fmt.Sprintf(", attempt %d: %s", n, why)
	}
	if d.DueAt != nil && len(d.Attempts) > 0 {
		text += ", again at " + when(*d.DueAt)
	}
	return text
}

// webhookFlags are those of serve.
type webhookFlags struct {
	allow []string
	ca    string
}

// client is what sends to endpoints.
func (f webhookFlags) client() (*webhook.Client, error) {
	var c webhook.Config
	for _, text := range f.allow {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("--webhook-allow %q: a network such as 10.1.0.0/16 is wanted", text)
		}
		c.Allow = append(c.Allow, prefix.Masked())
	}
	if f.ca != "" {
		b, err := readFile(f.ca)
		if err != nil {
			return nil, err
		}
		if c.Roots, err = x509.SystemCertPool(); err != nil {
			return nil, err
		}
		if !c.Roots.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("--webhook-ca %s has no certificate in PEM", f.ca)
		}
	}
	return webhook.NewClient(c), nil
}
