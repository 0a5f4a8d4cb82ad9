package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/server/servertest/cardhost"
)

// options are the program's flags.
type options struct {
	dir       string
	databases []string
	suite     cryptogram.Suite
	atOnce    int           // requests under way
	slices    int           // of deactivations, with bare RSA before, between and after
	each      int           // deactivations in a slice
	bare      time.Duration // of bare RSA between slices, for each kind of operation
	arrivals  int           // requests at half load
	alone     int           // deactivations one at a time, for the statements' times
	idle      time.Duration // that the server is watched with nothing to do
	sizes     []int         // registered cards; ascending
	main      int           // the one of them at which rates and latency are measured
	profiles  string        // directory; "": none are kept
	planDir   string        // for the queries' plans; "": none are written
	plain     bool          // measure without the fast RSA path too
}

func main() {
	cardhost.Enter()
	if c := os.Getenv(childVar); c != "" {
		var s serving
		err := json.Unmarshal([]byte(c), &s)
		if err == nil {
			err = serve(s)
		}
		exit(err)
	}
	var o options
	var suite int
	var quick bool
	var databases, sizes string
	flag.StringVar(&o.dir, "dir", os.TempDir(), "where the records are made; on a disk")
	flag.StringVar(&databases, "databases", "sqlite,postgres", "which")
	flag.IntVar(&suite, "suite", 1, "1, or 3")
	flag.IntVar(&o.atOnce, "at-once", 64, "requests under way, and cards that the server works on at once")
	flag.IntVar(&o.slices, "slices", 6, "slices of deactivations")
	flag.IntVar(&o.each, "each", 300, "deactivations in a slice")
	flag.DurationVar(&o.bare, "bare", 300*time.Millisecond, "bare RSA between slices, for each kind of operation")
	flag.IntVar(&o.arrivals, "arrivals", 600, "requests at half load")
	flag.IntVar(&o.alone, "alone", 150, "deactivations one at a time, for the statements' times")
	flag.DurationVar(&o.idle, "idle", 2*time.Second, "how long the server is watched with nothing to do")
	flag.StringVar(&sizes, "sizes", "1000,10000,100000,1000000", "registered cards")
	flag.IntVar(&o.main, "main", 10_000, "the one of them at which rates and latency are measured; 0: none")
	flag.StringVar(&o.profiles, "profiles", "", "directory for processor profiles of the server")
	flag.StringVar(&o.planDir, "plans", "", "directory for the queries' plans")
	flag.BoolVar(&o.plain, "plain", true, "also without the fast RSA path")
	flag.BoolVar(&quick, "quick", false, "as little of everything as there can be: figures mean nothing")
	flag.Parse()
	o.databases, o.suite = strings.Split(databases, ","), cryptogram.Suite(suite)
	for s := range strings.SplitSeq(sizes, ",") {
		n, err := strconv.Atoi(s)
		if err != nil {
			exit(err)
		}
		o.sizes = append(o.sizes, n)
	}
	if quick {
		o = o.quickly()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	exit(run(ctx, o, os.Stdout))
}

// quickly is as little as there can be.
func (o options) quickly() options {
	o.atOnce, o.slices, o.each, o.bare, o.arrivals, o.alone = 4, 2, 8, 10*time.Millisecond, 8, 8
	o.idle, o.sizes, o.main = 100*time.Millisecond, []int{200}, 200
	return o
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchserver:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
