// Gen writes the assembly of package rsafast: go generate in its folder.
package main

import (
	"flag"
	"log"
	"os"
	"path/filepath"
)

func main() {
	dir := flag.String("dir", ".", "folder to write to")
	flag.Parse()
	for name, text := range files() {
		if err := os.WriteFile(filepath.Join(*dir, name), []byte(text), 0o666); err != nil {
			log.Fatal(err)
		}
	}
}

// sizes are the limbs of 1024, 1536 and 2048-bit primes and of 3072 and 4096-bit
// moduli; a 2048-bit modulus has as many as such a prime.
var sizes = []int{20, 30, 40, 60, 80}

// files is every generated file by name.
func files() map[string]string {
	return map[string]string{
		"fma52_amd64.s":   generate(newFMA()),
		"ifma512_amd64.s": generate(newIFMA()),
	}
}
