package api

import (
	"container/list"
	"crypto/sha256"
	"math"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/cardbridge/cardbridge/server/store"
)

// Limits bound what one user may ask for. All users of an operator together may
// ask for twice that.
type Limits struct {
	Rate  float64 // requests a second; 0: no bound, of anybody's
	Burst int     // requests at once
}

// DefaultLimits are those of an API that is told of no others.
var DefaultLimits = Limits{Rate: 250, Burst: 500}

// WithLimits sets other limits than DefaultLimits.
func WithLimits(l Limits) Option { return func(a *API) { a.limits = newLimiter(l) } }

const (
	// Of one address: requests that need no user, and those that were nobody's.
	strangerRate  = 20 // a second
	strangerBurst = 200
	maxBuckets    = 16 << 10 // of each kind; beyond, the one that rested for longest is forgotten
	maxKnown      = 16 << 10
	knownFor      = 10 * time.Minute
)

// limiter counts requests. nil counts none. Addresses of IPv6 are counted by
// their /64, which one client has all of (RFC 6177).
type limiter struct {
	users, operators  *buckets[int64]
	openers, failures *buckets[netip.Addr]
	// known is the credentials that were somebody's just now: an address whose
	// failures are too many, of one client behind it, keeps out no others.
	known struct {
		sync.Mutex
		until map[[sha256.Size]byte]time.Time
	}
}

func newLimiter(l Limits) *limiter {
	if l.Rate <= 0 {
		return nil
	}
	return &limiter{
		users: newBuckets[int64](l.Rate, l.Burst), operators: newBuckets[int64](2*l.Rate, 2*l.Burst),
		openers: newBuckets[netip.Addr](strangerRate, strangerBurst), failures: newBuckets[netip.Addr](strangerRate, strangerBurst),
	}
}

// open counts a request that needs no user, and gives how long it has to wait.
func (l *limiter) open(remote string) time.Duration {
	if l == nil {
		return 0
	}
	return l.openers.take(counted(remote), 1)
}

// stranger gives how long a request has to wait that comes with a credential,
// before that is looked up.
func (l *limiter) stranger(remote string, credential [sha256.Size]byte) time.Duration {
	if l == nil {
		return 0
	}
	wait := l.failures.take(counted(remote), 0)
	if wait == 0 {
		return 0
	}
	l.known.Lock()
	defer l.known.Unlock()
	if time.Now().Before(l.known.until[credential]) {
		return 0
	}
	return wait
}

// failed counts a request whose credential is nobody's.
func (l *limiter) failed(remote string) {
	if l != nil {
		l.failures.take(counted(remote), 1)
	}
}

// came counts a request of a user, and gives how long it has to wait.
func (l *limiter) came(op store.Operator, credential [sha256.Size]byte) time.Duration {
	if l == nil {
		return 0
	}
	l.known.Lock()
	if len(l.known.until) >= maxKnown || l.known.until == nil {
		l.known.until = map[[sha256.Size]byte]time.Time{}
	}
	l.known.until[credential] = time.Now().Add(knownFor)
	l.known.Unlock()
	if wait := l.users.take(op.User.ID, 1); wait > 0 {
		return wait
	}
	return l.operators.take(op.ID, 1)
}

// counted is the address by which a remote one, with a port, is counted.
func counted(remote string) netip.Addr {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	a := ap.Addr().Unmap().WithZone("")
	if a.Is6() {
		p, _ := a.Prefix(64) // it has 128
		return p.Addr()
	}
	return a
}

// buckets are token buckets, by whose they are.
type buckets[K comparable] struct {
	rate  rate.Limit
	burst int

	mu    sync.Mutex
	of    map[K]*list.Element
	order list.List // of *bucket[K], the one used last at the front
}

type bucket[K comparable] struct {
	whose K
	*rate.Limiter
}

func newBuckets[K comparable](perSecond float64, burst int) *buckets[K] {
	return &buckets[K]{rate: rate.Limit(perSecond), burst: max(burst, 1), of: map[K]*list.Element{}}
}

// take takes n from whose bucket. Where there is nothing in it, it takes nothing
// and gives how long to wait for one.
func (b *buckets[K]) take(whose K, n int) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.of[whose]
	if e == nil {
		if b.order.Len() >= maxBuckets {
			oldest := b.order.Back()
			delete(b.of, oldest.Value.(*bucket[K]).whose)
			b.order.Remove(oldest)
		}
		e = b.order.PushFront(&bucket[K]{whose, rate.NewLimiter(b.rate, b.burst)})
		b.of[whose] = e
	}
	b.order.MoveToFront(e)
	lim, now := e.Value.(*bucket[K]), time.Now()
	if left := lim.TokensAt(now); left < 1 {
		return time.Duration((1 - left) / float64(b.rate) * float64(time.Second))
	}
	lim.AllowN(now, n)
	return 0
}

// tooMany is the report on a request that has to wait, and its Retry-After.
func tooMany(wait time.Duration, whose string) (*Problem, string) {
	seconds := strconv.Itoa(int(math.Ceil(wait.Seconds())))
	return newProblem(http.StatusTooManyRequests, "too many requests "+whose+"; come back in "+seconds+" s"), seconds
}

// Bounded gives a listener that keeps no more connections open than max, nor than
// ofOne of one address, or IPv6 /64; 0 is any number. What is beyond is closed at
// once, so that one client does not keep the others waiting.
func Bounded(ln net.Listener, max, ofOne int) net.Listener {
	return &bounded{Listener: ln, max: max, ofOne: ofOne, of: map[netip.Addr]int{}}
}

type bounded struct {
	net.Listener
	max, ofOne int

	mu   sync.Mutex
	open int
	of   map[netip.Addr]int
}

// Accept implements net.Listener.
func (b *bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := counted(c.RemoteAddr().String())
		if b.enter(from) {
			return &boundedConn{Conn: c, leave: sync.OnceFunc(func() { b.leave(from) })}, nil
		}
		c.Close()
	}
}

func (b *bounded) enter(from netip.Addr) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.max > 0 && b.open >= b.max || b.ofOne > 0 && b.of[from] >= b.ofOne {
		return false
	}
	b.open++
	b.of[from]++
	return true
}

func (b *bounded) leave(from netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open--
	if b.of[from]--; b.of[from] == 0 {
		delete(b.of, from)
	}
}

type boundedConn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *boundedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}
