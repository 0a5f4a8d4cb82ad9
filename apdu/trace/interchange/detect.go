package interchange

import (
	"bytes"
	"io"

	"github.com/cardbridge/cardbridge/apdu/trace/internal/lines"
)

// textFormat is a format of one line or a few per APDU.
type textFormat struct {
	name    Format
	decoder func() decoder
	// is reports whether a line is like no other format's.
	is func(line []byte) bool
}

// textFormats in the order in which they are tried: of formats with as many
// lines the first is taken.
var textFormats = []textFormat{
	{Scriptor, func() decoder { return &scriptor{} }, isScriptor},
	{PCSCD, func() decoder { return &pcscd{} }, isPCSCD},
	{PySCard, func() decoder { return &pyscard{} }, isPySCard},
	{OpenSCTool, func() decoder { return &openscTool{} }, isOpenSCTool},
	{OpenSCDebug, func() decoder { return &openscDebug{} }, isOpenSCDebug},
	{LPAC, func() decoder { return &lpac{} }, isLPAC},
	{GPPro, func() decoder { return &gppro{} }, isGPPro},
	{SIMtrace, func() decoder { return &simtrace{} }, isSIMtrace},
	{PySim, func() decoder { return &pysim{} }, isPySim},
	{TCA, func() decoder { return &tca{} }, isTCA},
}

// Detect recognises the format of a trace by its first 64 KiB, or all of it. A
// text that has lines of several formats has the one with most.
func Detect(head []byte) (Format, bool) {
	head = head[:min(len(head), headSize)]
	if f, ok := captureFormat(head); ok {
		return f, true
	}
	text := lines.New(newUTF8(bytes.NewReader(head)), maxLine)
	hits := make([]int, len(textFormats))
	json, commands := 0, 0
	for first := true; ; {
		line, err := text.Next()
		if err == io.EOF {
			break
		}
		line = plain(line)
		if first && bytes.HasPrefix(line, []byte("# cardbridge trace ")) {
			return Trace, true
		}
		first = first && len(line) == 0
		if isJSONLine(line) {
			json++
		}
		if isCommandLine(line) {
			commands++
		}
		for i, f := range textFormats {
			if f.is(line) {
				hits[i]++
			}
		}
	}
	best, most := JSONLines, json
	for i, n := range hits {
		if n > most {
			best, most = textFormats[i].name, n
		}
	}
	if most == 0 && commands > 0 { // nothing but commands: a script
		best, most = Scriptor, commands
	}
	return best, most > 0
}
