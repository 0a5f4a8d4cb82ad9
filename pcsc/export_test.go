package pcsc

import "time"

// NewAt is New with another place where the kernel shows its USB devices.
func NewAt(usb string) *Source { return &Source{usb: usb} }

// Raw is PC/SC as it is, without what a Conn makes of it.
type Raw struct{ service }

func EstablishRaw() (Raw, error) {
	svc, err := establish()
	return Raw{svc}, err
}

func (r Raw) Connect(reader string, exclusive bool, p Protocol) error {
	_, err := r.connect(reader, exclusive, p)
	return err
}

func (r Raw) Reconnect() error {
	_, err := r.reconnect(false, T1, ResetCard)
	return err
}

func (r Raw) Disconnect(d Disposition) error        { return r.disconnect(d) }
func (r Raw) Transmit(capdu []byte) ([]byte, error) { return r.transmit(capdu) }
func (r Raw) Interrupt()                            { r.interrupt() }
func (r Raw) Release()                              { r.release() }

// Status waits until the reader's state differs from the one before.
func (r Raw) Status(reader string, before uint32, wait time.Duration) (state uint32, atr []byte, err error) {
	states := []readerState{{name: reader, current: before}}
	err = r.status(states, wait)
	return states[0].event &^ stateChanged, states[0].atr, err
}

const StatePresent = statePresent
