// Package appletsim emulates a UICC with the management applet: the card side
// of docs/protocol.md, from the answer to reset to the signed receipt.
//
// A Card takes command APDUs and answers with response APDUs, as bytes, so it
// serves equally well in a test process (Card.Connect) and as a card in a real
// reader (package vpcd). It is made from a card image and keeps its persistent
// memory in a Store.
package appletsim
