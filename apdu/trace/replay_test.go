package trace

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
)

// tape is a session with all that can happen to a card.
var tape = []string{
	"! connected 3B8001",
	"> 00A4040000",
	"< 6F01029000",
	"> 00B0000010",
	"! error reader 1: card does not answer",
	"! connected 3B8001",
	"! reset 3B8002",
	"> 00B0000010",
	"! removed reader 1: card removed",
	"! connected 3B8001",
	"> 00C0000002",
	"< 6A86",
	"! closed",
}

// replayed replays a trace on a card made of another.
func replayed(t testing.TB, want, card *Trace, r Replayer) (Summary, []Difference) {
	t.Helper()
	c := NewCard(card, WithRules(&Rules{}))
	var all []Difference
	r.Connect = func(context.Context) (apdu.Conn, error) { return c.Connect(), nil }
	r.Report = func(d Difference) error { all = append(all, d); return nil }
	sum, err := r.Run(t.Context(), Sessions(want))
	require.NoError(t, err)
	return sum, all
}

func TestReplay(t *testing.T) {
	sum, _ := replayed(t, text(t, tape...), text(t, tape...), Replayer{})
	assert.Equal(t, Summary{Same: 7, May: 2}, sum, "the words of errors may differ")
}

func TestReplayStopsAtTheFirst(t *testing.T) {
	want, card := text(t, tape...), text(t, tape...)
	card.Entries[2].Data = []byte{0x6F, 0x00}
	sum, all := replayed(t, want, card, Replayer{})
	assert.Equal(t, Summary{Same: 1, Different: 1}, sum)
	require.Len(t, all, 2)
	assert.Equal(t, 3, all[1].A.Line())
	assert.Equal(t, "line 3, now: different\n    > 00A4040000\n  - < 6F01029000\n  + < 6F00\n      response bytes 0-2: 6F0102, then none\n      status word: 9000, then 6F00\n", all[1].String())

	sum, _ = replayed(t, want, card, Replayer{KeepGoing: true})
	assert.Equal(t, Summary{Same: 6, May: 2, Different: 1}, sum)
}

// What is redacted is not sent: the card would count a wrong PIN.
func TestReplaySkips(t *testing.T) {
	want := text(t, "< 9000", "> 00A4040000", "< 9000", "> 0020000104********", "< 9000", "> 00B0000002", "< **019000", "> 00B0000001", "! refresh please", "! reset 3B00")
	card := text(t, "> 00A4040000", "< 9000", "> 00B0000002", "< FF019000", "> 00B0000001", "< 019000")
	sum, all := replayed(t, want, card, Replayer{})
	assert.Equal(t, Summary{Same: 3, May: 1, Skipped: 3}, sum)
	assert.Equal(t, "line 5: skipped, for it is redacted or nothing to send\n  - > 0020000104********\n  - < 9000\n", all[2].String())
	assert.Empty(t, all[4].B.Answer.Text, "an answer that the trace does not have")
}

func TestReplayFails(t *testing.T) {
	broken := errors.New("broken")
	r := Replayer{Connect: func(context.Context) (apdu.Conn, error) { return nil, broken }}
	_, err := r.Run(t.Context(), Sessions(text(t, "> 00A40400")))
	assert.ErrorIs(t, err, broken)
	_, err = r.Run(t.Context(), Sessions(text(t, "! connected 3B00")))
	assert.ErrorIs(t, err, broken)

	c := NewCard(text(t, "> 00A40400", "< 9000"))
	r = Replayer{
		Connect: func(context.Context) (apdu.Conn, error) { return c.Connect(), nil },
		Report:  func(Difference) error { return broken },
	}
	_, err = r.Run(t.Context(), Sessions(text(t, "> 00A40400", "< 9000")))
	assert.ErrorIs(t, err, broken)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = r.Run(ctx, Sessions(text(t, "> 00A40400", "< 9000")))
	assert.ErrorIs(t, err, context.Canceled)
}

func ExampleReplayer() {
	recorded := &Trace{Entries: []Entry{
		{Kind: Command, Data: []byte{0x80, 0xCA, 0x00, 0x5A, 0x00}}, {Kind: Response, Data: []byte{0x5A, 0x01, 0x01, 0x90, 0x00}},
	}}
	card := &conn{answer: func([]byte) ([]byte, error) { return []byte{0x5A, 0x01, 0x02, 0x90, 0x00}, nil }} // a reader's, outside an example
	r := Replayer{
		Connect: func(context.Context) (apdu.Conn, error) { return card, nil },
		Report:  func(d Difference) error { _, err := fmt.Print(d); return err },
	}
	sum, err := r.Run(context.Background(), Sessions(recorded))
	fmt.Println(sum.Equal(), err)
	// Output:
	// session 1, now: different
	//     > 80CA005A00
	//   - < 5A01019000
	//   + < 5A01029000
	//       response byte 2: 01, then 02
	// false <nil>
}
