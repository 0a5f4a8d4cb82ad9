package vm

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// modules are the drivers that the machine loads: USB devices that a program in
// it plays, and those that QEMU has.
var modules = []string{"vhci_hcd", "xhci_pci"}

// moduleName is a module's name by its file's: the kernel writes "_" for "-".
func moduleName(file string) string {
	name, _, _ := strings.Cut(filepath.Base(file), ".")
	return strings.ReplaceAll(name, "-", "_")
}

// loadOrder gives the files in dir of the named modules and of what they depend
// on, each after what it depends on.
func loadOrder(dir string, names []string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.ko"))
	if err != nil {
		return nil, err
	}
	byName := map[string]string{}
	for _, f := range files {
		byName[moduleName(f)] = f
	}
	var order []string
	done := map[string]bool{}
	var visit func(name string) error
	visit = func(name string) error {
		if done[name] {
			return nil
		}
		done[name] = true
		file, ok := byName[name]
		if !ok {
			return fmt.Errorf("the kernel package has no module %s", name)
		}
		depends, err := dependencies(file)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, d := range depends {
			if err := visit(d); err != nil {
				return err
			}
		}
		order = append(order, file)
		return nil
	}
	for _, n := range names {
		if err := visit(n); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// dependencies are the modules that a module needs, as it says itself.
func dependencies(file string) ([]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	module, err := elf.NewFile(f)
	if err != nil {
		return nil, err
	}
	info := module.Section(".modinfo")
	if info == nil {
		return nil, fmt.Errorf("no .modinfo")
	}
	b, err := info.Data()
	if err != nil {
		return nil, err
	}
	for line := range strings.SplitSeq(string(b), "\x00") {
		if list, ok := strings.CutPrefix(line, "depends="); ok {
			return strings.FieldsFunc(strings.ReplaceAll(list, "-", "_"), func(r rune) bool { return r == ',' }), nil
		}
	}
	return nil, nil
}
