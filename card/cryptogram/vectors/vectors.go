// Package vectors loads the test vectors of the card protocol,
// card/cryptogram/testdata/handshake.json, for the tests of every package that
// they pin. What each field is stands in README.md beside that file.
package vectors

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// Hex is bytes that the file has in hexadecimal.
type Hex []byte

// UnmarshalText takes hexadecimal digits.
func (h *Hex) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

// File is the whole file.
type File struct {
	About    string            `json:"about"`
	Codings  Codings           `json:"codings"`
	Keys     map[string]string `json:"keys"` // PKCS#8 PEM by name
	Sets     []Set             `json:"sets"`
	Negative []Negative        `json:"negative"`
}

// Codings is identifiers and fixed answers (§1, §6, §7).
type Codings struct {
	EID            map[string]Hex `json:"eid"`
	ICCID          map[string]Hex `json:"iccid"`
	MCCMNC         map[string]Hex `json:"mccmnc"`
	PolicyRules    map[string]Hex `json:"policy_rules_99"`
	SelectAPDU     Hex            `json:"select_apdu"`
	SelectAnswer   Hex            `json:"select_answer"`
	CardInfoAPDU   Hex            `json:"card_info_apdu"`
	CardInfoAnswer Hex            `json:"card_info_answer"`
}

// Set is one pair of a server and a card.
type Set struct {
	Name  string `json:"name"`
	Suite byte   `json:"suite"`
	KID   byte   `json:"kid"`
	EID   string `json:"eid"`
	Keys  struct {
		ServerAuth []string `json:"server_auth"`
		ServerEnc  string   `json:"server_enc"`
		CardAuth   []string `json:"card_auth"`
		CardEnc    string   `json:"card_enc"`
	} `json:"keys"` // names in File.Keys
	SIDInput Hex       `json:"sid_input"`
	SID      Hex       `json:"sid"`
	Sessions []Session `json:"sessions"`
}

// Session is one authentication and the exchanges that follow it.
type Session struct {
	Purpose              string     `json:"purpose"`
	RS                   Hex        `json:"rs"`
	RC                   Hex        `json:"rc"`
	RK                   Hex        `json:"rk"`
	HCInput              Hex        `json:"hc_input"`
	HC                   Hex        `json:"hc"`
	M1                   Envelope   `json:"m1"`
	M2                   Envelope   `json:"m2"`
	InternalAuthenticate APDUs      `json:"internal_authenticate"`
	ExternalAuthenticate APDUs      `json:"external_authenticate"`
	KencInput            Hex        `json:"kenc_input"`
	KmacInput            Hex        `json:"kmac_input"`
	Kenc                 Hex        `json:"kenc"`
	Kmac                 Hex        `json:"kmac"`
	Exchanges            []Exchange `json:"exchanges"`
}

// Envelope is M1 or M2, layer by layer.
type Envelope struct {
	Message         Hex   `json:"message"`
	T1              Hex   `json:"t1"`
	AfterPrivateKey []Hex `json:"after_private_key"`
	OAEPSeed        Hex   `json:"oaep_seed"`
	EnvelopeKey     Hex   `json:"envelope_key"` // nil where there is no tail
	OAEPPlaintext   Hex   `json:"oaep_plaintext"`
	OAEPCiphertext  Hex   `json:"oaep_ciphertext"`
	TailPadded      Hex   `json:"tail_padded"`
	TailCiphertext  Hex   `json:"tail_ciphertext"`
	Envelope        Hex   `json:"envelope"`
}

// APDUs is one command on channel 0 in the forms that it has; nil where it has
// not.
type APDUs struct {
	Short    Hex   `json:"short"`
	Extended Hex   `json:"extended"`
	Chained  []Hex `json:"chained"`
}

// Exchange is one command under secure messaging and its response.
type Exchange struct {
	Name             string   `json:"name"`
	CommandData      Hex      `json:"command_data"`
	HeaderInMAC      Hex      `json:"header_in_mac"`
	CommandSSC       Hex      `json:"command_ssc"`
	CommandIV        Hex      `json:"command_iv"`
	DO87             Hex      `json:"do87"`
	DO97             Hex      `json:"do97"`
	CommandMACInput  Hex      `json:"command_mac_input"`
	CommandMAC       Hex      `json:"command_mac"`
	CommandField     Hex      `json:"command_field"`
	APDU             APDUs    `json:"apdu"`
	ResponseData     Hex      `json:"response_data"`
	InnerSW          Hex      `json:"inner_sw"`
	ResponseSSC      Hex      `json:"response_ssc"`
	ResponseIV       Hex      `json:"response_iv"`
	ResponseMACInput Hex      `json:"response_mac_input"`
	ResponseField    Hex      `json:"response_field"`
	ResponseAPDU     Hex      `json:"response_apdu"`
	Receipt          *Receipt `json:"receipt"` // nil for GET STATUS
}

// Receipt is the receipt of an exchange.
type Receipt struct {
	CommandHash     Hex   `json:"command_hash"`
	SignedResponse  Hex   `json:"signed_response"`
	ResponseHash    Hex   `json:"response_hash"`
	Message         Hex   `json:"message"`
	T1              Hex   `json:"t1"`
	AfterPrivateKey []Hex `json:"after_private_key"`
	Value           Hex   `json:"value"`
}

// Negative is an input that its receiver must reject.
type Negative struct {
	Name     string `json:"name"`
	Receiver string `json:"receiver"` // "card" or "server"
	Set      string `json:"set"`      // Set.Name
	Session  int    `json:"session"`  // index in Set.Sessions
	InputIs  string `json:"input_is"`
	Input    Hex    `json:"input"`
	Must     string `json:"must"`
	Why      string `json:"why"`
}

// PEM is the private keys of those names.
func (f *File) PEM(names ...string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = f.Keys[n]
	}
	return out
}

// Find is the set and the session that a negative vector is about; nil where
// the file has none.
func (f *File) Find(n Negative) (*Set, *Session) {
	for i := range f.Sets {
		if s := &f.Sets[i]; s.Name == n.Set && n.Session < len(s.Sessions) {
			return s, &s.Sessions[n.Session]
		}
	}
	return nil, nil
}

var read = sync.OnceValues(func() (*File, error) {
	root, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(root, "card", "cryptogram", "testdata", "handshake.json"))
	if err != nil {
		return nil, err
	}
	var f File
	return &f, json.Unmarshal(b, &f)
})

// Load loads the file; a test runs in its package's folder, somewhere below the
// module's root. The result is shared: nobody changes it.
func Load(tb testing.TB) *File {
	tb.Helper()
	f, err := Read()
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

// Read is Load where there is no test at hand: in an Example.
func Read() (*File, error) { return read() }

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if filepath.Dir(dir) == dir {
			return "", errors.New("vectors: no go.mod above the working directory")
		}
		dir = filepath.Dir(dir)
	}
}
