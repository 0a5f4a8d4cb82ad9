package hwtest

import (
	"context"
	"embed"
	"path"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/applet-sim/vpcd"
	"github.com/cardbridge/cardbridge/hwtest/rig"
	"github.com/cardbridge/cardbridge/pcsc"
)

//go:embed testdata/virtual
var virtualFiles embed.FS

func readVirtual(name string) ([]byte, error) {
	return virtualFiles.ReadFile(path.Join("testdata/virtual", name))
}

// virtualBench is the emulated cards in a private pcscd's readers, by the
// readers' names.
type virtualBench map[string]*virtualSlot

// virtualSlot is a virtual reader and the card that is in it, or beside it.
type virtualSlot struct {
	addr string
	card vpcd.Card
	pull func() // nil while the card is beside it
}

// insert puts the card into its reader.
func (s *virtualSlot) insert() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		var options []vpcd.Option
		if p, ok := s.card.(interface {
			pull(capdu, rapdu []byte) (time.Duration, bool)
		}); ok {
			options = append(options, vpcd.WithPull(p.pull))
		}
		_ = vpcd.Serve(ctx, s.addr, s.card, options...) // ends with ctx
	}()
	s.pull = func() { cancel(); <-done; s.pull = nil }
}

// startVirtual starts a private pcscd and puts the cards into its readers, two at
// most; none: a managed card and an eUICC.
func startVirtual(t *testing.T, cards ...vpcd.Card) (*rig.PCSCD, virtualBench) {
	t.Helper()
	if len(cards) == 0 {
		cards = []vpcd.Card{newManagedCard(t), newPlainEUICC(t)}
	}
	v := virtualBench{}
	pcscd := rig.Start(t, rig.Options{Slots: len(cards)})
	for i, card := range cards {
		slot := pcscd.Slots()[i]
		s := &virtualSlot{addr: slot.Addr, card: card}
		v[slot.Reader] = s
		s.insert()
		t.Cleanup(func() {
			if s.pull != nil {
				s.pull()
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := pcsc.New().WaitCard(ctx, slot.Reader)
		require.NoError(t, err)
	}
	return pcscd, v
}

func newManagedCard(t *testing.T) *appletsim.Card {
	t.Helper()
	b, err := readVirtual("image.json")
	require.NoError(t, err)
	im, err := appletsim.ParseImage(b)
	require.NoError(t, err)
	card, err := appletsim.New(im)
	require.NoError(t, err)
	return card
}

// newPlainEUICC is an eUICC without the management applet, with three profiles.
func newPlainEUICC(t *testing.T) *appletsim.Card {
	t.Helper()
	b, err := readVirtual("image.json")
	require.NoError(t, err)
	im, err := appletsim.ParseImage(b)
	require.NoError(t, err)
	require.NoError(t, im.EID.UnmarshalText([]byte("89049032000000000000000000000260")))
	im.Runtime = &appletsim.Runtime{About: &appletsim.EUICC{Plain: true}}
	one := im.Profiles[0]
	one.Provider, one.PPR1, one.PPR2, one.Fallback, one.Class = "Lab", false, false, false, appletsim.Operational
	im.Profiles = nil
	for _, p := range []struct {
		iccid, name string
		state       appletsim.State
	}{
		{"89860000000000000505", "travel", appletsim.Enabled},
		{"898600000000000005", "old 18 digits", appletsim.Disabled},
		{"8986000000000000513", "spare", appletsim.Disabled},
	} {
		require.NoError(t, one.ICCID.UnmarshalText([]byte(p.iccid)))
		one.Name, one.State = p.name, p.state
		im.Profiles = append(im.Profiles, one)
	}
	card, err := appletsim.New(im)
	require.NoError(t, err)
	return card
}
