package rules

import "testing"

func allowed(t testing.TB) *Input {
	mine, other, foreign, gone := iccid(t, "89860000000000000018"), iccid(t, "89860000000000000026"), iccid(t, "89860000000000000034"), iccid(t, "89860000000000000042")
	a, b := plmn(t, "46011"), plmn(t, "26201")
	return &Input{Operator: &Operator{"op", a}, ICCID: &mine, Card: &Card{Registered: true, Groups: []string{"meters"}, Profiles: []Profile{
		{ICCID: mine, Owner: a, Enabled: true, DisableAllowed: true},
		{ICCID: other, Owner: a, DisableAllowed: true},
		{ICCID: foreign, Owner: b, DisableAllowed: true},
		{ICCID: gone, Owner: a, Absent: true, DisableAllowed: true},
	}}}
}
