package pkcs11

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseURI(t *testing.T) {
	slot := uint(7)
	for s, want := range map[string]URI{
		"pkcs11:":                       {},
		"pkcs11:token=bench;object=enc": {Token: "bench", Object: "enc"},
		"pkcs11:object=my%20key;type=private;id=%0":                            {},
		"pkcs11:id=%00%FFa;slot-id=7;type=private":                             {ID: []byte{0, 0xFF, 'a'}, Slot: &slot},
		"pkcs11:serial=1;model=m;manufacturer=a%2Fb":                           {Serial: "1", Model: "m", Manufacturer: "a/b"},
		"pkcs11:object=k?module-path=/usr/lib/x.so&pin-source=file:/run/pin":   {Object: "k", Module: "/usr/lib/x.so", PINSource: "/run/pin"},
		"pkcs11:object=k?pin-source=file:///run/pin":                           {Object: "k", PINSource: "/run/pin"},
		"pkcs11:object=k?pin-source=file://localhost/run/pin":                  {Object: "k", PINSource: "/run/pin"},
		"pkcs11:object=k?pin-source=/run/pin":                                  {Object: "k", PINSource: "/run/pin"},
		"pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;object=my-key(1)": {Token: "The Software PKCS#11 Softtoken", Object: "my-key(1)"},
	} {
		got, err := ParseURI(s)
		if strings.HasSuffix(s, "%0") {
			assert.ErrorIs(t, err, ErrURI, s)
			continue
		}
		require.NoError(t, err, s)
		assert.Equal(t, want, got, s)
		again, err := ParseURI(got.String())
		require.NoError(t, err, got.String())
		assert.Equal(t, got, again)
	}
}

func TestParseURIRefuses(t *testing.T) {
	for s, says := range map[string]string{
		"":                                             "begin with",
		"PKCS11:object=k":                              "begin with",
		"pkcs11:object":                                "without a value",
		"pkcs11:object=":                               "0 bytes",
		"pkcs11:;object=k":                             "without a value",
		"pkcs11:object=k;object=k":                     "twice",
		"pkcs11:object=k;type=public":                  "private key is wanted",
		"pkcs11:object=k;library-version=3":            "not known",
		"pkcs11:object=k;x-mine=3":                     "not known",
		"pkcs11:object=k?pin-value=1234":               "pin-source",
		"pkcs11:pin-value=1234;object=k":               "pin-source",
		"pkcs11:object=k?module-name=softhsm":          "not known",
		"pkcs11:object=k?pin-source=|cat%20pin":        "not run",
		"pkcs11:object=k?pin-source=file://run/pin":    "another machine",
		"pkcs11:object=a b":                            "percent-encoded",
		"pkcs11:object=a%zz":                           "none",
		"pkcs11:object=%00":                            "NUL",
		"pkcs11:slot-id=-1":                            "32 bits",
		"pkcs11:slot-id=4294967296":                    "32 bits",
		"pkcs11:token=" + strings.Repeat("a", 33):      "33 bytes",
		"pkcs11:object=" + strings.Repeat("a", 256):    "256 bytes",
		"pkcs11:object=k?" + strings.Repeat("&", 3000): "at most",
	} {
		_, err := ParseURI(s)
		assert.ErrorIs(t, err, ErrURI, s)
		assert.ErrorContains(t, err, says, s)
		assert.NotContains(t, err.Error(), "1234", "no PIN is repeated")
	}
}

func FuzzParseURI(f *testing.F) {
	for _, s := range []string{
		"pkcs11:token=bench;object=enc;id=%01%02;type=private?module-path=/usr/lib/x.so&pin-source=file:/run/pin", "pkcs11:", "pkcs11:slot-id=4",
		"pkcs11:serial=1;model=m;manufacturer=a%2Fb", "pkcs11:object=k?pin-value=1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseURI(s)
		if err != nil {
			require.ErrorIs(t, err, ErrURI)
			require.Equal(t, URI{}, u)
			return
		}
		again, err := ParseURI(u.String())
		if len(u.String()) > maxURI {
			return // what needs no encoding may be encoded
		}
		require.NoError(t, err, "%q", u.String())
		require.Equal(t, u, again)
	})
}
