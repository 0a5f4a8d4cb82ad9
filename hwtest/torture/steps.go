package torture

import "fmt"

// Bits of a class byte, and instructions, of docs/protocol.md §6.
const (
	chainingBit    = 0x10
	insDeactivate  = 0x04
	insGetResponse = 0xC0
)

var instructions = map[byte]string{
	0x70:           "MANAGE CHANNEL",
	0x82:           "EXTERNAL AUTHENTICATE",
	0x88:           "INTERNAL AUTHENTICATE",
	0xA4:           "SELECT",
	0xCA:           "GET DATA",
	0xF2:           "GET STATUS",
	insDeactivate:  "DEACTIVATE",
	insGetResponse: "GET RESPONSE",
}

// StepNames name the commands of a deactivation, each in its place: parts of a
// chain are numbered, GET RESPONSE says what of.
func StepNames(commands [][]byte) []string {
	var names []string
	for i := 0; i < len(commands); {
		end := i + 1 // of the chain that starts here
		for end < len(commands) && chained(commands[end-1]) && sameINS(commands[i], commands[end]) {
			end++
		}
		name := instruction(commands[i])
		for part := i; part < end; part++ {
			names = append(names, name+portion(part-i+1, end-i))
		}
		more := end
		for more < len(commands) && instruction(commands[more]) == instructions[insGetResponse] {
			more++
		}
		for part := end; part < more; part++ {
			names = append(names, name+": "+instructions[insGetResponse]+portion(part-end+1, more-end))
		}
		i = more
	}
	return names
}

func portion(n, of int) string {
	if of == 1 {
		return ""
	}
	return fmt.Sprintf(" %d/%d", n, of)
}

func chained(capdu []byte) bool { return len(capdu) > 1 && capdu[0]&chainingBit != 0 }

func sameINS(a, b []byte) bool { return len(a) > 1 && len(b) > 1 && a[1] == b[1] }

func instruction(capdu []byte) string {
	if len(capdu) < 2 {
		return fmt.Sprintf("%X", capdu)
	}
	if name, known := instructions[capdu[1]]; known {
		return name
	}
	return fmt.Sprintf("INS %02X", capdu[1])
}
