package cardtest_test

import (
	"context"
	"os"
	"testing"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cardtest"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/pcsc"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// A physical card in the only reader, registered with the server whose key set
// is in server.json.
func ExampleRun() {
	_ = func(t *testing.T) {
		read := func(name string) []byte {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		rec, err := card.ParseRecord(read("record.json"))
		if err != nil {
			t.Fatal(err)
		}
		file, err := cryptogram.ParseKeySet(read("server.json"))
		if err != nil {
			t.Fatal(err)
		}
		keys, err := file.Private()
		if err != nil {
			t.Fatal(err)
		}
		cardtest.Run(t, cardtest.Existing(cardtest.Card{
			Record: rec,
			Server: keys,
			Open: func(t *testing.T) apdu.Conn {
				source := pcsc.New()
				r, err := source.WaitCard(context.Background(), "")
				if err != nil {
					t.Fatal(err)
				}
				conn, err := source.Open(t.Context(), r.Name, reader.Exclusive)
				if err == nil {
					err = conn.Reset(t.Context())
				}
				if err != nil {
					t.Fatal(err)
				}
				return conn
			},
		}))
	}
}
