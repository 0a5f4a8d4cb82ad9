package appletsim

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/cryptogram/vectors"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/card/securemsg"
)

const (
	selectApplet   = "00A404000BF06361726462726964676500"
	selectResponse = "6F1A840BF063617264627269646765A50B8001018102010382020800"
	getEID         = "80CA005A00"
	eidResponse    = "5A1089049032000000000000000000424247"
)

func keysPEM(v *vectors.File, auth []string, enc string) cryptogram.KeysPEM {
	return cryptogram.KeysPEM{Auth: v.PEM(auth...), Enc: v.Keys[enc]}
}

// serverKeys are the private keys of a set's server.
func serverKeys(t testing.TB, set *vectors.Set) cryptogram.ServerKeys {
	pem := keysPEM(vectors.Load(t), set.Keys.ServerAuth, set.Keys.ServerEnc)
	k, err := cryptogram.KeySetPEM{ID: set.KID, KeysPEM: pem}.Private()
	require.NoError(t, err)
	return k
}

// image is the card of a set, as it is before the set's first session.
func imageOf(t testing.TB, set *vectors.Set) *Image {
	public, err := cryptogram.EncodePublic(serverKeys(t, set).Public())
	require.NoError(t, err)
	im := &Image{
		EID:           mustEID(set.EID),
		Keys:          keysPEM(vectors.Load(t), set.Keys.CardAuth, set.Keys.CardEnc),
		ServerKeySets: []cryptogram.KeySetPEM{{ID: set.KID, KeysPEM: public}},
		Suites:        []int{1},
		Profiles: []Profile{
			{ICCID: mustICCID("898603D0A1B2C3E40042"), Owner: mustMCCMNC("46011"), State: Enabled, Class: Operational, Provider: "Operator Eleven", Name: "Everyday", PPR2: true},
			{ICCID: mustICCID("89014100000000000434"), Owner: mustMCCMNC("310410"), State: Disabled, Class: Provisioning, Provider: "Opérateur 310-410", Name: "Abroad", PPR1: true},
		},
		EventCounter: 0x100,
	}
	if len(set.Keys.CardAuth) == 3 {
		im.Suites = []int{1, 3}
	}
	return im
}

// Profiles of the test image.
var (
	everyday = mustICCID("898603D0A1B2C3E40042") // of 46011
	abroad   = mustICCID("89014100000000000434") // of 310410
	unknown  = mustICCID("8988000000000000001")

	eleven = mustMCCMNC("46011")
	other  = mustMCCMNC("310410")
)

// testImage is a card of both suites that knows two servers: kid 1 with three
// auth keys, kid 15 with one. No profile is under a policy rule.
func testImage(t testing.TB) *Image {
	im := imageOf(t, &vectors.Load(t).Sets[1])
	one := im.ServerKeySets[0]
	one.ID, one.Auth = 15, one.Auth[:1]
	im.ServerKeySets = append(im.ServerKeySets, one)
	im.Profiles[0].PPR2, im.Profiles[1].PPR1 = false, false
	return im
}

func newCard(t testing.TB, im *Image, opts ...Option) *Card {
	c, err := New(im, opts...)
	require.NoError(t, err)
	return c
}

func mustEID(s string) id.EID {
	e, err := id.ParseEID(s)
	if err != nil {
		panic(err)
	}
	return e
}

func mustICCID(s string) id.ICCID {
	i, err := id.ParseICCID(s)
	if err != nil {
		panic(err)
	}
	return i
}

func mustMCCMNC(s string) id.MCCMNC {
	m, err := id.ParseMCCMNC(s)
	if err != nil {
		panic(err)
	}
	return m
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// hexBytes is bytes as APDUs are written.
func hexBytes(b []byte) string { return strings.ToUpper(hex.EncodeToString(b)) }

func last(s string, n int) string { return s[max(0, len(s)-n):] }

// send sends one command APDU and gives the response, both hexadecimal.
func send(c *Card, capdu string) string { return hexBytes(c.Process(unhex(capdu))) }

// step is a command APDU and the response that it must have. In "…9000" the
// data does not matter.
type step struct{ capdu, want string }

func run(t *testing.T, c *Card, steps ...step) {
	t.Helper()
	for i, s := range steps {
		got := send(c, s.capdu)
		if end, ok := strings.CutPrefix(s.want, "…"); ok {
			require.Truef(t, strings.HasSuffix(got, end), "step %d, %.20s: %s does not end in %s", i+1, s.capdu, got, end)
			continue
		}
		require.Equalf(t, s.want, got, "step %d, %.20s", i+1, s.capdu)
	}
}

// terminal is the server's side, by hand from docs/protocol.md.
type terminal struct {
	t         testing.TB
	card      *Card
	keys      cryptogram.ServerKeys
	public    cryptogram.PublicKeys // the card's
	channel   int
	challenge cryptogram.Challenge
	rc        [32]byte
	sm        *securemsg.Session
	kmac      [16]byte // of sm
}

// newTerminal is server kid 1 on channel 0, with the applet selected.
func newTerminal(t testing.TB, c *Card) *terminal {
	term := &terminal{t: t, card: c, keys: serverKeys(t, &vectors.Load(t).Sets[1]), public: c.material.keys.Public()}
	term.selectApplet()
	return term
}

// on is the same server on another channel, which is opened.
func (m *terminal) on(channel int) *terminal {
	m.t.Helper()
	require.Equal(m.t, "9000", send(m.card, fmt.Sprintf("007000%02X", channel)))
	x := *m
	x.channel = channel
	x.selectApplet()
	return &x
}

func (m *terminal) selectApplet() {
	m.t.Helper()
	_, sw := m.plain(apdu.Command{INS: insSelect, P1: 4, Data: appletID, Ne: 256})
	require.Equal(m.t, apdu.SWSuccess, sw)
}

// plain sends cmd on the terminal's channel and fetches all of the response.
func (m *terminal) plain(cmd apdu.Command) ([]byte, apdu.StatusWord) {
	m.t.Helper()
	cmd.CLA = apdu.ChannelCLA(cmd.CLA, m.channel, cmd.CLA&0x0C == 0x0C)
	b, err := cmd.AppendBinary(nil)
	require.NoError(m.t, err)
	data, sw, err := apdu.ParseResponse(m.card.Process(b))
	require.NoError(m.t, err)
	for sw.SW1() == 0x61 {
		var more []byte
		get := []byte{apdu.ChannelCLA(0, m.channel, false), insGetResponse, 0, 0, sw.SW2()}
		more, sw, err = apdu.ParseResponse(m.card.Process(get))
		require.NoError(m.t, err)
		data = append(data, more...)
	}
	return data, sw
}

// internal runs INTERNAL AUTHENTICATE and opens M1.
func (m *terminal) internal(suite cryptogram.Suite) {
	m.t.Helper()
	m.challenge = cryptogram.Challenge{Suite: suite, KID: m.keys.KID, SID: m.keys.SID(), EID: m.card.image.EID}
	copy(m.challenge.RS[:], "sixteen bytes RS")
	m1, sw := m.plain(apdu.Command{INS: insInternalAuthenticate, P1: byte(suite), P2: m.keys.KID, Data: m.challenge.RS[:], Ne: 256})
	require.Equal(m.t, apdu.SWSuccess, sw)
	var err error
	m.rc, err = m.challenge.OpenM1(m.t.Context(), m.keys.PrivateKeys, m.public, m1)
	require.NoError(m.t, err)
}

// m2 answers the challenge and readies the terminal's side of the session.
func (m *terminal) m2(hc [32]byte) []byte {
	m.t.Helper()
	s := &cryptogram.Session{RC: m.rc, HC: hc}
	copy(s.RK[:], "sixteen bytes RK")
	envelope, err := m.challenge.SealM2(m.t.Context(), bytes.NewReader(make([]byte, 64)), m.keys.PrivateKeys, m.public, s)
	require.NoError(m.t, err)
	k := m.challenge.Keys(s)
	m.sm, m.kmac = securemsg.New(k.Enc, k.Mac), k.Mac
	return envelope
}

func (m *terminal) external(envelope []byte) apdu.StatusWord {
	m.t.Helper()
	_, sw := m.plain(apdu.Command{INS: insExternalAuthenticate, P1: byte(m.challenge.Suite), P2: m.challenge.KID, Data: envelope})
	return sw
}

// authenticate opens a session that may carry ins with data, or none where data
// is nil.
func (m *terminal) authenticate(suite cryptogram.Suite, ins byte, data []byte) {
	m.t.Helper()
	var hc [32]byte
	if data != nil {
		hc = cryptogram.HashCommand(ins, data)
	}
	m.internal(suite)
	require.Equal(m.t, apdu.SWSuccess, m.external(m.m2(hc)))
}

// secured sends a command under secure messaging; sw is the inner one.
func (m *terminal) secured(ins byte, data []byte) ([]byte, apdu.StatusWord) {
	m.t.Helper()
	field, sw := m.wire(ins, 0, 0, m.sm.Wrap(ins, 0, 0, data))
	require.Equal(m.t, apdu.SWSuccess, sw)
	out, inner, err := m.sm.Unwrap(field)
	require.NoError(m.t, err)
	return out, inner
}

// wire sends a secured field as it is; sw is the outer one.
func (m *terminal) wire(ins, p1, p2 byte, field []byte) ([]byte, apdu.StatusWord) {
	m.t.Helper()
	return m.plain(apdu.Command{CLA: 0x8C, INS: ins, P1: p1, P2: p2, Data: field, Ne: 256})
}

// order is the data of a DEACTIVATE or ACTIVATE.
type order struct {
	request  byte // first byte of the request id
	operator id.MCCMNC
	iccid    *id.ICCID
	counter  uint32
}

func (o order) data() []byte {
	b := append([]byte{0x82, 16, o.request}, make([]byte, 15)...)
	b = append(append(b, 0x81, 3), o.operator[:]...)
	if o.iccid != nil {
		b = append(append(b, 0x80, 10), o.iccid[:]...)
	}
	b = append(b, 0x83, 1, 0, 0x84, 4)
	return binary.BigEndian.AppendUint32(b, o.counter)
}

// do authenticates for one operation and sends it. It gives the response data
// before the receipt, which it verifies, in hexadecimal, and the inner status.
func (m *terminal) do(suite cryptogram.Suite, ins byte, data []byte) (string, apdu.StatusWord) {
	m.t.Helper()
	m.authenticate(suite, ins, data)
	out, sw := m.secured(ins, data)
	return m.verified(suite, ins, data, out), sw
}

func (m *terminal) verified(suite cryptogram.Suite, ins byte, data, out []byte) string {
	m.t.Helper()
	if len(out) == 0 {
		return ""
	}
	n := len(out) - m.public.Auth[0].Size()
	require.Greater(m.t, n, 4)
	require.Equal(m.t, []byte{0x9E, 0x82, 0x01, 0x00}, out[n-4:n])
	r := cryptogram.Receipt{Suite: suite, EID: m.card.image.EID, Command: cryptogram.HashCommand(ins, data), Response: out[:n-4]}
	require.NoError(m.t, r.Verify(m.public, out[n:]))
	return hexBytes(out[:n-4])
}
