package usbip_test

import (
	"errors"
	"fmt"

	"github.com/cardbridge/cardbridge/hwtest/ccidsim"
	"github.com/cardbridge/cardbridge/hwtest/usbip"
)

// A CCID reader is plugged into the kernel, as root on Linux with vhci-hcd.
func Example() {
	device := ccidsim.New(ccidsim.Config{Level: ccidsim.TPDU, Serial: "4711"})
	port, err := usbip.Plug(usbip.AnyPort, device)
	if errors.Is(err, usbip.ErrNoController) {
		return
	} else if err != nil {
		fmt.Println(err)
		return
	}
	defer port.Close()
}
