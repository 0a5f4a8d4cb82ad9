// Package uicc is the file system of a UICC with a USIM (ETSI TS 102 221, 3GPP
// TS 31.102), and the commands on it: the part of an emulated card that a phone
// sees.
//
// What a file holds is the profile's that is enabled (Subscription). Where
// nothing was written it is derived from the profile, so that a profile needs an
// ICCID and an owner alone. With no profile enabled the MF has its own EFs and
// there is no USIM.
//
// The tree of files and their FCP templates are the same for all cards, which
// share them.
package uicc
