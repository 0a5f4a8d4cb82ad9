package trace

import "sync"

// defaultRules are those that hold where a file of rules has none of its own:
// what is new in every session of the card protocol (docs/protocol.md), of ISO
// 7816-4, 3GPP TS 31.102, GlobalPlatform and SGP.22.
const defaultRules = `
version: 1
rules:
- name: nonce and M1
  match: [0X 88 01, 0X 88 03, 4X 88 01, 4X 88 03]
  command: bytes 0-15
  response: data
- name: M2
  match: [0X 82 01, 0X 82 03, 4X 82 01, 4X 82 03]
  command: data
- name: cryptogram and MAC of secure messaging
  match: [8X 04 00 00, 8X 44 00 00, 8X F2 00 00, CX 04 00 00, CX 44 00 00, CX F2 00 00, EX 04 00 00, EX 44 00 00, EX F2 00 00]
  command: [tag 87, tag 8E]
  response: [tag 87, tag 8E]
- name: event and failure counters
  match: [8X CA 00 E1, CX CA 00 E1]
  response: [tag E1/80, tag E1/81]
- name: GET CHALLENGE
  match: [0X 84, 4X 84, 8X 84 00 00]
  response: data
- name: AUTHENTICATE
  match: [0X 88, 4X 88, 0X 89, 4X 89, A0 88]
  command: data
  response: data
- name: GENERAL AUTHENTICATE
  match: [0X 86, 0X 87, 4X 86, 4X 87]
  command: data
  response: data
- name: EXTERNAL AUTHENTICATE
  match: [0X 82, 4X 82, 8X 82, CX 82]
  command: data
- name: INITIALIZE UPDATE
  match: [8X 50, CX 50]
  command: data
  response: bytes 12-
- name: eUICC challenge
  match: [8X E2, CX E2]
  response: tag BF2E/80
`

var parsedDefaults = sync.OnceValue(func() []rule {
	r, _, err := parseRules(defaultRules)
	if err != nil {
		panic(err) // the text above, which a test parses
	}
	return r.rules
})

// DefaultRules are the built-in rules.
func DefaultRules() *Rules { return &Rules{rules: parsedDefaults()} }
