package hwtest_test

import (
	"fmt"
	"os"

	"github.com/cardbridge/cardbridge/hwtest"
)

func ExampleParseBench() {
	bench, err := hwtest.ParseBench([]byte(`
person: true
readers:
  - reader: "usb:08e6:4433:serial=1234:0.0"
    limits: {power_cycles: 20}
`), os.ReadFile)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, r := range bench.Readers {
		fmt.Println(r.Reader, r.Limits.PowerCycles, r.Limits.RoundTrips)
	}
	// Output: usb:08e6:4433:serial=1234:0.0 20 500
}
