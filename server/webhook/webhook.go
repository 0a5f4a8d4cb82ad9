// Package webhook tells HTTP endpoints of events as the Standard Webhooks
// specification says (https://www.standardwebhooks.com): how a message is signed
// and verified, when it is sent again, and which addresses it may go to.
//
// Receivers need Receive alone.
package webhook

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// The types of messages.
const (
	Held     = "deactivation.held"     // it waits for the approval of a second user
	Unknown  = "deactivation.unknown"  // it was sent, and no answer to it verified yet
	Finished = "deactivation.finished" // nothing more will happen
	Test     = "webhook.test"          // somebody asked for it
)

// Types are those that an endpoint can choose from; Test comes either way.
var Types = []string{Held, Unknown, Finished}

// Errors that those of this package match.
var (
	// ErrSecret says that a text is no secret.
	ErrSecret = errors.New("webhook: a secret is whsec_ and 24 to 64 bytes in base64")
	// ErrSignature says that a message is not from whom it should be, or is too
	// old or from the future.
	ErrSignature = errors.New("webhook: the message does not verify")
	// ErrMalformed says that a message that verifies cannot be read.
	ErrMalformed = errors.New("webhook: the message is malformed")
)

const (
	secretPrefix = "whsec_"
	minSecret    = 24 // bytes
	maxSecret    = 64
	newSecret    = 32
	maxMessage   = 1 << 20 // bytes that Receive reads
)

// Secret is a key that sender and receiver share. It does not print.
type Secret struct{ key []byte }

// NewSecret makes a secret of 32 random bytes.
func NewSecret() (Secret, error) {
	key := make([]byte, newSecret)
	if _, err := rand.Read(key); err != nil {
		return Secret{}, fmt.Errorf("random bytes: %w", err)
	}
	return Secret{key}, nil
}

// ParseSecret reads a secret as Reveal writes it. The error is ErrSecret.
func ParseSecret(text string) (Secret, error) {
	text, found := strings.CutPrefix(text, secretPrefix)
	if !found || strings.ContainsAny(text, "\r\n") { // which base64 passes over
		return Secret{}, ErrSecret
	}
	key, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return Secret{}, ErrSecret
	}
	return SecretOf(key)
}

// SecretOf is the secret with these bytes. The error is ErrSecret.
func SecretOf(key []byte) (Secret, error) {
	if len(key) < minSecret || len(key) > maxSecret {
		return Secret{}, ErrSecret
	}
	return Secret{bytes.Clone(key)}, nil
}

// Reveal is the secret as text.
func (s Secret) Reveal() string { return secretPrefix + base64.StdEncoding.EncodeToString(s.key) }

// Bytes are the secret's own.
func (s Secret) Bytes() []byte { return s.key }

// IsZero reports whether there is none.
func (s Secret) IsZero() bool { return len(s.key) == 0 }

// Format implements fmt.Formatter.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, secretPrefix+"…") }

// Sign is the webhook-signature header of a message, under each of the secrets.
func Sign(id string, at time.Time, payload []byte, secrets ...Secret) (string, error) {
	var out []string
	for _, s := range secrets {
		signer, err := standardwebhooks.NewWebhookRaw(s.key)
		if err != nil {
			return "", err
		}
		text, err := signer.Sign(id, at, payload)
		if err != nil {
			return "", err
		}
		out = append(out, text)
	}
	return strings.Join(out, " "), nil
}

// Message is what an endpoint is told.
type Message struct {
	// ID is the same each time that a message is sent: whoever has seen it need
	// not look at it again.
	ID        string          `json:"-"`
	Type      string          `json:"type"`
	Timestamp time.Time       `json:"timestamp"` // of the event
	Data      json.RawMessage `json:"data"`      // a Deactivation of the HTTP interface, unless Type is Test
}

// Verify reads a message that is signed under one of the secrets and was sent
// within the last five minutes. The error matches ErrSignature or ErrMalformed.
func Verify(header http.Header, body []byte, secrets ...Secret) (Message, error) {
	why := errors.New("there is no secret to verify it with")
	for _, s := range secrets {
		if s.IsZero() {
			continue // anybody can sign under an empty key
		}
		verifier, err := standardwebhooks.NewWebhookRaw(s.key)
		if err == nil {
			err = verifier.Verify(body, header)
		}
		if err != nil {
			why = err
			continue
		}
		m := Message{ID: header.Get(standardwebhooks.HeaderWebhookID)}
		if err := json.Unmarshal(body, &m); err != nil {
			return Message{}, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		return m, nil
	}
	return Message{}, fmt.Errorf("%w: %w", ErrSignature, why)
}

// Receive reads a request of up to 1 MiB and verifies it, as Verify does. Answer
// 2xx where it gives a message, and 401 where it does not.
func Receive(r *http.Request, secrets ...Secret) (Message, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxMessage+1))
	switch {
	case err != nil:
		return Message{}, fmt.Errorf("webhook: %w", err)
	case len(body) > maxMessage:
		return Message{}, fmt.Errorf("%w: more than %d bytes", ErrMalformed, maxMessage)
	}
	return Verify(r.Header, body, secrets...)
}
