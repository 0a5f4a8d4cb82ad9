package card_test

import (
	"context"
	"crypto/rsa"
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/id"
)

// timedKey adds up the time that private operations take.
type timedKey struct {
	cryptogram.PrivateKey
	spent *time.Duration
}

func (k timedKey) Private(ctx context.Context, c []byte) ([]byte, error) {
	began := time.Now()
	defer func() { *k.spent += time.Since(began) }()
	return k.PrivateKey.Private(ctx, c)
}

func timed(keys cryptogram.PrivateKeys, spent *time.Duration) cryptogram.PrivateKeys {
	out := cryptogram.PrivateKeys{Enc: timedKey{keys.Enc, spent}}
	for _, k := range keys.Auth {
		out.Auth = append(out.Auth, timedKey{k, spent})
	}
	return out
}

// timedConn adds up the time that the card takes.
type timedConn struct {
	apdu.Conn
	spent time.Duration
}

func (c *timedConn) Transmit(ctx context.Context, capdu []byte) ([]byte, error) {
	began := time.Now()
	defer func() { c.spent += time.Since(began) }()
	return c.Conn.Transmit(ctx, capdu)
}

// bare is the time of one private and one public operation by themselves.
func bare(b *testing.B, key cryptogram.PrivateKey) (private, public time.Duration) {
	const rounds = 200
	signed, err := cryptogram.PrivEnc(b.Context(), []cryptogram.PrivateKey{key}, make([]byte, 84))
	require.NoError(b, err)
	began := time.Now()
	for range rounds {
		_, err = key.Private(b.Context(), signed)
		require.NoError(b, err)
	}
	private = time.Since(began) / rounds
	began = time.Now()
	for range rounds {
		_, err = cryptogram.PubDec([]*rsa.PublicKey{key.Public()}, signed, 84)
		require.NoError(b, err)
	}
	return private, time.Since(began) / rounds
}

// BenchmarkDeactivate is one authentication and one DEACTIVATE or ACTIVATE, in
// process, and says where the time goes: in the server's private operations,
// the card's, and the rest. server/bare-RSA is all the server's time against
// the sum of its RSA operations alone: 2 private and 3 public in suite 01, 4
// and 7 in suite 03.
func BenchmarkDeactivate(b *testing.B) {
	serverPEM, err := cryptogram.Generate(3, 2048)
	require.NoError(b, err)
	serverKeys, err := serverPEM.Private()
	require.NoError(b, err)
	cardPEM, err := cryptogram.Generate(3, 2048)
	require.NoError(b, err)
	cardKeys, err := cardPEM.Private()
	require.NoError(b, err)
	public, err := cryptogram.EncodePublic(serverKeys.Public())
	require.NoError(b, err)
	iccid, err := id.ParseICCID("89014100000000000434")
	require.NoError(b, err)
	eid, err := id.ParseEID("89049032000000000000000000424247")
	require.NoError(b, err)
	owner, err := id.ParseMCCMNC("46011")
	require.NoError(b, err)

	for _, suite := range []cryptogram.Suite{cryptogram.Suite01, cryptogram.Suite03} {
		b.Run("suite "+suite.String(), func(b *testing.B) {
			var serverSpent, cardSpent time.Duration
			sim, err := appletsim.New(&appletsim.Image{
				EID: eid, Keys: cardPEM, Suites: []int{1, 3},
				ServerKeySets: []cryptogram.KeySetPEM{{ID: 1, KeysPEM: public}},
				Profiles:      []appletsim.Profile{{ICCID: iccid, Owner: owner, State: appletsim.Enabled, Class: appletsim.Operational}},
			}, appletsim.WithKeys(timed(cardKeys, &cardSpent)))
			require.NoError(b, err)
			conn := &timedConn{Conn: sim.Connect()}
			terminal := &card.Terminal{Keys: cryptogram.ServerKeys{KID: 1, PrivateKeys: timed(serverKeys, &serverSpent)}}
			target := card.Target{EID: eid, Keys: cardKeys.Public(), Suite: suite}
			cmd := card.Command{INS: card.INSDeactivate, Operator: owner, ICCID: &iccid}
			private, publicOp := bare(b, serverKeys.Enc)
			serverSpent, cardSpent, conn.spent = 0, 0, 0
			began := time.Now()
			b.ReportAllocs()
			for b.Loop() {
				binary.BigEndian.PutUint32(cmd.RequestID[:], cmd.Counter)
				rep, err := terminal.Attempt(b.Context(), apdu.BasicChannel(conn), target, card.Attempt{Command: cmd, Recorded: cmd.Counter})
				require.NoError(b, err)
				require.Equal(b, card.OutcomeDone, rep.Outcome)
				cmd.Counter++
				cmd.INS ^= card.INSDeactivate ^ card.INSActivate
			}
			all, n := time.Since(began), time.Duration(b.N)
			// Before and after, for the machine may be busier at one time.
			laterPrivate, laterPublic := bare(b, serverKeys.Enc)
			private, publicOp = (private+laterPrivate)/2, (publicOp+laterPublic)/2
			privates, publics := 1+time.Duration(suite.Layers()), 1+2*time.Duration(suite.Layers())
			b.ReportMetric(float64(serverSpent/n), "server-RSA-ns/op")
			b.ReportMetric(float64(cardSpent/n), "card-RSA-ns/op")
			b.ReportMetric(float64((all-serverSpent-cardSpent)/n), "rest-ns/op")
			b.ReportMetric(float64((all-conn.spent)/n)/float64(privates*private+publics*publicOp), "server/bare-RSA")
		})
	}
}
