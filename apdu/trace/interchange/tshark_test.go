package interchange

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu/trace"
)

// decoded is what tshark says of the packets of a capture, in the named fields.
func decoded(t *testing.T, capture []byte, fields ...string) [][]string {
	file := filepath.Join(t.TempDir(), "trace.pcapng")
	require.NoError(t, os.WriteFile(file, capture, 0o600))
	args := []string{"-n", "-r", file, "-T", "fields", "-E", "separator=|", "-E", "occurrence=f"}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	cmd := exec.CommandContext(t.Context(), "tshark", args...)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	require.NoError(t, cmd.Run(), "tshark (Debian's package of that name): %s", stderr.String())
	var rows [][]string
	for line := range strings.Lines(out.String()) {
		rows = append(rows, strings.Split(strings.TrimRight(line, "\n"), "|"))
	}
	return rows
}

// tshark, which nobody here wrote, reads what we write, field by field.
func TestTsharkDecodes(t *testing.T) {
	const in = `# cardbridge trace 2
# date: 2026-11-22T01:02:03Z
! connected 3B9F96801FC78031E073FE211367560327008901 # +0.000000s
> 00A40004023F00 # +0.001000s
< 6121 # +0.001500s 0.500ms
> 80C0000002 # +0.002000s
< 621F9000 # +0.002500s 0.500ms
> 01A4040007A000000087100200 # +0.003000s
< 6F028400 9000 # +0.003500s 0.500ms
> 00B085100A # +0.004000s
< 98101032547698103254 9000 # +0.004500s
> 00B2030403 # +0.005000s
< 010203 9000 # +0.005500s
> 0070000001 # +0.006000s
< 01 9000 # +0.006500s
> 81E2910006BF3E035C015A # +0.007000s
< 6115 # +0.007500s
> 00A4040C00 # +0.008000s
< 6A82 # +0.008500s
> 0020000108 31323334FFFFFFFF # +0.009000s
< 63C2 # +0.009500s
# cardbridge trace 2
# date: 2026-11-22T02:00:00Z
> 00B0000000 # +1.000000s
< 6C0A # +1.000500s
`
	capture, _ := converted(t, PCAPNG, trace.NewReader(strings.NewReader(in)))
	fields := []string{"epoch", "cla.coding", "cla.log_chan", "ins", "p1", "p2", "p3", "file_id", "aid", "bin_offset", "sfi", "record_nr", "le", "data", "sw"}
	names := []string{"frame.time_epoch"}
	for _, f := range fields[1:] {
		switch f {
		case "file_id", "aid", "bin_offset", "sfi", "record_nr", "le":
			names = append(names, "gsm_sim."+f)
		default:
			names = append(names, "gsm_sim.apdu."+f)
		}
	}
	names = append(names, "udp.dstport", "_ws.malformed")
	var got []string
	for _, row := range decoded(t, capture, names...) {
		require.Len(t, row, len(names))
		assert.Equal(t, []string{"4729", ""}, row[len(fields):])
		var said []string
		for i, f := range fields {
			if v := row[i]; v != "" && v != "<MISSING>" {
				said = append(said, f+" "+v)
			}
		}
		got = append(got, strings.Join(said, ", "))
	}
	assert.Equal(t, []string{
		// The ATR, which this version of tshark takes for an APDU.
		"epoch 1795309323.000000000, cla.coding 0x03, cla.log_chan 3, ins 0x9f, p1 0x96, p2 0x80, p3 0x1f, sw 0x8901",
		"epoch 1795309323.001500000, cla.coding 0x00, cla.log_chan 0, ins 0xa4, file_id 0x3f00, sw 0x6121",
		"epoch 1795309323.002500000, cla.coding 0x00, cla.log_chan 0, ins 0xc0, le 2, data 621f, sw 0x9000",
		"epoch 1795309323.003500000, cla.coding 0x00, cla.log_chan 1, ins 0xa4, aid a0000000871002, sw 0x6104",
		"epoch 1795309323.003500000, cla.coding 0x00, cla.log_chan 1, ins 0xc0, le 4, data 6f028400, sw 0x9000",
		"epoch 1795309323.004500000, cla.coding 0x00, cla.log_chan 0, ins 0xb0, bin_offset 16, sfi 0x05, le 10, data 98101032547698103254, sw 0x9000",
		"epoch 1795309323.005500000, cla.coding 0x00, cla.log_chan 0, ins 0xb2, record_nr 3, le 3, data 010203, sw 0x9000",
		"epoch 1795309323.006500000, cla.coding 0x00, cla.log_chan 0, ins 0x70, le 1, sw 0x9000",
		"epoch 1795309323.007500000, cla.coding 0x08, cla.log_chan 1, ins 0xe2, p1 0x91, p2 0x00, p3 0x06, data bf3e035c015a, sw 0x6115",
		"epoch 1795309323.008500000, cla.coding 0x00, cla.log_chan 0, ins 0xa4, sw 0x6a82",
		"epoch 1795309323.009500000, cla.coding 0x00, cla.log_chan 0, ins 0x20, sw 0x63c2",
		"epoch 1795312801.000500000, cla.coding 0x00, cla.log_chan 0, ins 0xb0, bin_offset 0, le 0, sw 0x6c0a",
	}, got)
}
