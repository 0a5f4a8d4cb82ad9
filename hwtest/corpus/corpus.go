// Package corpus is recorded and hand-written APDU traces for tests: sessions of
// the card protocol as the emulator has them, with every scene of the demo, each
// refusal and each fault, and sessions as other tools have them with UICCs and
// eUICCs. Its test replays every file.
package corpus

import (
	"bytes"
	"embed"
	"io/fs"
	"path"

	"github.com/cardbridge/cardbridge/apdu/trace"
)

//go:embed testdata/*.apdu
var files embed.FS

const folder = "testdata"

// Names lists the traces, sorted.
func Names() []string {
	list, err := fs.ReadDir(files, folder)
	if err != nil {
		panic(err) // it is within the program
	}
	names := make([]string, len(list))
	for i, f := range list {
		names[i] = f.Name()
	}
	return names
}

// Open parses a trace of that name. The error matches fs.ErrNotExist where there
// is none.
func Open(name string) (*trace.Trace, error) {
	b, err := fs.ReadFile(files, path.Join(folder, name))
	if err != nil {
		return nil, err
	}
	return trace.Parse(bytes.NewReader(b))
}
