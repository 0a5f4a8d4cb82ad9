package vm

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"github.com/cardbridge/cardbridge/hwtest/rig"
)

// stageVar tells a process what it is: the machine's first process, what of it is
// left as a service where systemd is that, or the program that runs in the
// machine; none of them on the host.
const (
	stageVar     = "CARDBRIDGE_TEST_VM"
	stageInit    = "init"
	stageService = "service"
	stageGuest   = "guest"
)

// Enter moves the program into the machine. Call it first of all, before flags,
// files and goroutines: it starts the machine with the same arguments and
// working directory, copies what the program writes in there to its own standard
// output and error, and ends this process with that one's exit status. Where
// that is not 0, or the machine fails, all that the machine's console said goes
// to standard error too. The machine dies with this process.
//
// Inside, Enter returns. The program is root there; udevd runs, pcscd does not:
// rig.Start starts it, with no virtual reader. Files that it leaves behind are
// gone with the machine, those that flags of package testing name too.
func Enter(c Config) {
	switch stage := os.Getenv(stageVar); {
	case stage == stageGuest:
		if err := rig.HaveMachine(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		return
	case stage == stageInit && os.Getpid() == 1, stage == stageService:
		beInit(stage) // does not return
	}
	runtime.LockOSThread() // Pdeathsig is about the thread that starts the child
	status, err := c.run()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = max(status, 1)
	}
	// Not os.Exit: what the race detector and coverage do at an end is for the
	// program inside.
	syscall.Exit(status)
}
