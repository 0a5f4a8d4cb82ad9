package webhook

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
)

// ErrURL says that a message cannot go to a URL.
var ErrURL = errors.New("webhook: an endpoint's URL is like https://host/path")

const maxURL = 2048 // bytes

// special are the addresses that are not of the public Internet, beyond those
// that netip tells of: the IANA special-purpose registries, and the forms in which
// IPv6 carries an IPv4 address that would have to be looked at on its own.
var special = func() (out []netip.Prefix) {
	for _, text := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
		"203.0.113.0/24", "240.0.0.0/4",
		"::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fec0::/10",
	} {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}()

// errPrivate does not say which address it is: a name may be of a network that
// whoever registers an endpoint knows nothing of.
var errPrivate = errors.New("its address is not a public one; the server's administrator can allow it")

// admit says whether a message may go to an address.
func admit(a netip.Addr, allow []netip.Prefix) error {
	if a.Zone() != "" {
		return errPrivate
	}
	a = a.Unmap()
	within := func(list []netip.Prefix) bool {
		return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	if within(allow) || a.IsGlobalUnicast() && !a.IsPrivate() && !within(special) {
		return nil
	}
	return errPrivate
}

// checkURL says what is wrong with an endpoint's URL.
func checkURL(text string, allow []netip.Prefix) error {
	if len(text) > maxURL {
		return fmt.Errorf("%w, of %d bytes at most", ErrURL, maxURL)
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return ErrURL
	case u.Scheme != "https":
		return fmt.Errorf("%w; without TLS what is told could be read and changed", ErrURL)
	case u.Hostname() == "" || u.Opaque != "":
		return ErrURL
	case u.User != nil:
		return fmt.Errorf("%w, without user and password: messages are signed", ErrURL)
	case u.Fragment != "":
		return fmt.Errorf("%w, without a fragment", ErrURL)
	}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		if err := admit(a, allow); err != nil {
			return fmt.Errorf("%w: %w", ErrURL, err)
		}
	}
	return nil
}
