package torture

// Torment is what is done to a stack: its part of the whole matrix.
type Torment struct {
	Name    string // of the stack
	Faults  []Fault
	Drivers []string
	Kinds   []string
}

// OnVPCD is pcscd's virtual reader. pcscd's list of vpcd's readers is fixed, so
// that none is unplugged.
var OnVPCD = Torment{
	Name:    "pcsc, pcscd, vpcd",
	Faults:  []Fault{Pulled, Bounced, Killed, Mute},
	Drivers: []string{Operation, Server},
	Kinds:   []string{Extended, Short},
}

// Stacks with a USB reader.
var (
	// OnPipes is pcsc/ccid on the pipes of the reader's model, without USB.
	OnPipes = Torment{
		Name:    "pcsc/ccid, model",
		Faults:  []Fault{Pulled, Bounced, Unplugged, Mute, Hung},
		Drivers: []string{Operation, Server},
		Kinds:   []string{Extended},
	}
	// OnGousb is pcsc/ccid by gousb on a kernel's vhci_hcd.
	OnGousb = Torment{
		Name:    "pcsc/ccid, gousb, vhci",
		Faults:  []Fault{Pulled, Bounced, Unplugged, Mute, Hung},
		Drivers: []string{Operation, Server},
		Kinds:   []string{Extended},
	}
	// OnLibccid is pcscd with libccid on a kernel's vhci_hcd.
	OnLibccid = Torment{
		Name:    "pcsc, pcscd, libccid, vhci",
		Faults:  []Fault{Pulled, Bounced, Unplugged, Killed, Mute, Hung},
		Drivers: []string{Operation, Server},
		Kinds:   []string{Extended},
	}
)

// Torments are all of them.
var Torments = []Torment{OnVPCD, OnPipes, OnGousb, OnLibccid}

// Plan is the torment's whole matrix.
func (t Torment) Plan(o Options) Plan {
	return Plan{Drivers: t.Drivers, Kinds: t.Kinds, Options: o}
}
