package atr_test

import (
	"encoding/hex"
	"fmt"

	"github.com/cardbridge/cardbridge/pcsc/atr"
)

func ExampleParse() {
	raw, _ := hex.DecodeString("3B9F96801FC78031A073BE21136743200718000001A5")
	a, err := atr.Parse(raw)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, line := range a.Lines(4000) {
		fmt.Println(line)
	}
	_, err = atr.Parse(raw[:9])
	fmt.Println(err)
	// Output:
	// answer to reset: 3B 9F 96 80 1F C7 80 31 A0 73 BE 21 13 67 43 20 07 18 00 00 01 A5
	// convention: direct
	// protocols: T=0
	// speed: F=512 D=32, clock up to 5 MHz, 250000 baud at 4 MHz
	// T=0: WI 10, waits 1.2288s
	// extra guard time: 0
	// classes: ABC; clock may stop low or high
	// historical bytes: 80 31 A0 73 BE 21 13 67 43 20 07 18 00 00 01
	// capabilities: 4 logical channels
	// atr: malformed: ends early (historical bytes, byte 9)
}
