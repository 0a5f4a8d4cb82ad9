package appletsim

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/securemsg"
)

// FuzzProcess sends a sequence of messages to a live card, of which the applet
// is selected on channels 0 and 5. Each message is a length byte and that many
// bytes, of which the first says what it is: 0, a command APDU; 1, the header
// and data of a command that goes out under secure messaging, in a session that
// authorises nothing; 2, the same with its data as the secured field; 3, a
// reset.
func FuzzProcess(f *testing.F) {
	message := func(kind byte, s string) []byte {
		b := append([]byte{kind}, unhex(s)...)
		return append([]byte{byte(len(b))}, b...)
	}
	for _, seed := range [][][]byte{
		{message(0, selectApplet), message(0, getEID), message(0, "80CA00E1"), message(0, "00C0000000")},
		{message(0, "0070000001"), message(0, "01A404000BF06361726462726964676500"), message(0, "00708001")},
		{message(0, "0088010110"+string(bytes.Repeat([]byte("00"), 16))), message(0, "00C0000000"), message(0, "10820101FF"+string(bytes.Repeat([]byte("00"), 100)))},
		{message(1, "8CF20000"), message(1, "8C040000"+hexBytes(order{}.data())), message(1, "8CF20000"), message(3, "")},
		{message(2, "8CF20000970200008E080000000000000000"), message(0, "1082010105AABBCCDDEE"), message(0, "80CA005A00")},
		{message(0, "01A4040C10"+isdrAID), message(0, "00A4040C10"+isdrAID), message(0, "80E2110014"+switchProfile(enableProfile, abroad, "FF")), message(0, "80E2910006BF3E035C015A00"), message(0, "80E2910014"+switchProfile(disableProfile, everyday, "FF"))},
		{message(0, "C5CA005A00"), message(0, "41CA005A000000"), message(0, "00A4040000000BF0636172646272696467650000")},
	} {
		f.Add(bytes.Join(seed, nil), len(seed)%2 == 0)
	}
	im := testImage(f)
	card := newCard(f, im)
	f.Fuzz(func(t *testing.T, in []byte, extended bool) {
		card.extended = extended
		card.Reset()
		card.channels[0].selected = true
		card.channels[5] = channel{open: true, selected: true}
		key := [16]byte{1}
		card.auth = authState{session: &session{suite: cryptogram.Suite03, sm: securemsg.New(key, key)}}
		server := securemsg.New(key, key)
		stored := false // the ISD-R asks for no authorisation
		for n := 0; len(in) > 0 && n < 40; n++ {
			size := min(int(in[0])+1, len(in))
			capdu := fuzzCommand(server, in[1:size])
			in = in[size:]
			if capdu == nil {
				card.Reset()
				continue
			}
			stored = stored || len(capdu) > 1 && capdu[1] == insStoreData
			data, sw, err := apdu.ParseResponse(card.Process(capdu))
			require.NoError(t, err)
			if sw.SW1() == 0x6C || sw.SW1() != 0x61 && sw != apdu.SWSuccess {
				require.Empty(t, data)
			}
		}
		got := card.Image()
		if stored {
			_, err := got.load()
			require.NoError(t, err)
			require.GreaterOrEqual(t, got.EventCounter, im.EventCounter)
			card = newCard(t, im)
			return
		}
		got.Runtime = nil // failures may have been counted
		require.Equal(t, im, got, "nothing was authorised")
	})
}

// fuzzCommand is the command APDU of a message, nil for a reset.
func fuzzCommand(server *securemsg.Session, m []byte) []byte {
	if len(m) == 0 || m[0] == 3 {
		return nil
	}
	if m[0] != 1 && m[0] != 2 || len(m) < 5 {
		return m[1:]
	}
	field := m[5:]
	if m[0] == 1 {
		field = server.Wrap(m[2], m[3], m[4], field)
	}
	b, err := apdu.Command{CLA: m[1], INS: m[2], P1: m[3], P2: m[4], Data: field, Ne: 256}.AppendBinary(nil)
	if err != nil {
		return m[1:]
	}
	return b
}

func FuzzParseImage(f *testing.F) {
	im := testImage(f)
	b, err := im.Marshal()
	require.NoError(f, err)
	f.Add(b)
	im.Runtime = &Runtime{Answers: []StoredAnswer{{Hash: make(Hex, 32), Response: unhex("9001009E0101")}}, Failures: []Failures{{1, 2}}}
	b, err = im.Marshal()
	require.NoError(f, err)
	f.Add(b)
	f.Add([]byte(`{"eid":"89049032000000000000000000424247","profiles":[{"iccid":"898603D0A1B2C3E40042"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		im, err := ParseImage(b)
		if err != nil {
			require.ErrorIs(t, err, ErrImage)
			return
		}
		out, err := im.Marshal()
		require.NoError(t, err)
		again, err := ParseImage(out)
		require.NoError(t, err)
		twice, err := again.Marshal()
		require.NoError(t, err)
		require.Equal(t, string(out), string(twice))
	})
}
