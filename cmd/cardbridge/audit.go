package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/store"
)

const auditPage = 100 // events read at once

// eventJSON is one event of the audit trail. Members are absent where they do
// not apply.
type eventJSON struct {
	Seq       int64          `json:"seq"`
	At        time.Time      `json:"at"`
	Kind      string         `json:"kind"`
	RequestID *id.RequestID  `json:"request_id,omitempty"`
	EID       *id.EID        `json:"eid,omitempty"`
	Operator  int64          `json:"operator,omitempty"` // its number in the record
	Internal  bool           `json:"internal,omitempty"` // operators are not told
	Detail    map[string]any `json:"detail,omitempty"`
}

func newAuditCmd() *cobra.Command {
	var where recordFlags
	var eidText, requestText string
	cmd := &cobra.Command{
		Use:   "audit {--data DIR | --store URL} [--eid EID] [--request ID]",
		Short: "Print a server's audit trail",
		Long: `Prints the audit trail of a server's record, oldest first: everything that
happened to operators, cards and requests, with what operators are not told.
Long texts (keys, receipts, APDUs) end in "…"; --json has them whole, each event
as one JSON object on one line. The server may run meanwhile. What is printed
proves nothing: audit verify does (docs/audit.md).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			var eid *id.EID
			if eidText != "" {
				e, err := id.ParseEID(eidText)
				if err != nil {
					return err
				}
				eid = &e
			}
			var request *id.RequestID
			if requestText != "" {
				r, err := id.ParseRequestID(requestText)
				if err != nil {
					return err
				}
				request = &r
			}
			records, err := where.open(cmd.Context())
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, records.Close()) }()
			p := newPrinter(cmd)
			for after := int64(0); ; {
				events, err := records.Events(cmd.Context(), after, auditPage)
				if err != nil {
					return err
				}
				if len(events) == 0 {
					return nil
				}
				after = events[len(events)-1].Seq
				for _, e := range events {
					if eid != nil && (e.EID == nil || *e.EID != *eid) || request != nil && (e.RequestID == nil || *e.RequestID != *request) {
						continue
					}
					if err := p.event(e); err != nil {
						return err
					}
				}
			}
		},
	}
	cmd.AddCommand(newAuditExportCmd(), newAuditVerifyCmd(), newAuditKeyCmd())
	where.addFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&eidText, "eid", "", "only what concerns the card with this `EID`")
	f.StringVar(&requestText, "request", "", "only what concerns the request with this `ID`")
	addJSONFlag(cmd)
	return cmd
}

// event prints one event of the audit trail on one line.
func (p *printer) event(e store.Event) error {
	if p.json {
		return p.object(eventJSON(e))
	}
	line := fmt.Sprintf("%6d  %s  %-20s", e.Seq, e.At.Local().Format("2006-01-02 15:04:05.000"), e.Kind)
	if e.Operator != 0 {
		line += fmt.Sprintf("  operator %d", e.Operator)
	}
	if e.EID != nil {
		line += "  EID " + e.EID.String()
	}
	if e.RequestID != nil {
		line += "  request " + e.RequestID.String()
	}
	if len(e.Detail) > 0 {
		var detail strings.Builder
		enc := json.NewEncoder(&detail)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(cut(e.Detail)); err != nil {
			return err
		}
		line += "  " + strings.TrimSpace(detail.String())
	}
	_, err := fmt.Fprintln(p.out, line)
	return err
}

// longest text of a detail that is printed whole: a SHA-256 is, a key is not.
const longest = 80

// cut is a detail with its long texts cut: keys, receipts, APDUs.
func cut(v any) any {
	switch v := v.(type) {
	case string:
		if len(v) > longest {
			return strings.ToValidUTF8(v[:longest-16], "") + "…"
		}
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = cut(v[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k := range v {
			out[k] = cut(v[k])
		}
		return out
	}
	return v
}
