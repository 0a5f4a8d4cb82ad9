package interchange_test

import (
	"fmt"
	"os"
	"strings"

	"github.com/cardbridge/cardbridge/apdu/trace"
	"github.com/cardbridge/cardbridge/apdu/trace/interchange"
)

// A log of another tool becomes a trace, its PIN masked.
func Example() {
	log := strings.NewReader("-> 0020000108 31323334ffffffff\n<- 9000:\nnoise\n")
	src, format, err := interchange.Open(log, func(w interchange.Warning) { fmt.Println(w) })
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(format)
	if err := trace.Copy(trace.Redact(trace.NewWriter(os.Stdout)), src); err != nil {
		fmt.Println(err)
	}
	// Output:
	// pysim
	// # cardbridge trace 2
	// # tool: pysim
	// # redacted: yes
	// > 0020000108**************** # +0.000000s
	// < 9000 # +0.000000s 0.000ms
	// line 3: not understood
}
