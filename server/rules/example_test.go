package rules_test

import (
	"fmt"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/rules"
)

func Example() {
	iccid, _ := id.ParseICCID("89860000000000000018")
	owner, _ := id.ParseMCCMNC("46011")
	d := rules.Default().Evaluate(&rules.Input{
		Operator: &rules.Operator{Name: "example", MCCMNC: owner},
		Card:     &rules.Card{Registered: true, Profiles: []rules.Profile{{ICCID: iccid, Owner: owner, Enabled: true, DisableAllowed: false}}},
	})
	fmt.Println(d.Face)
	// Output: the profile's policy (POL2) does not allow that it is disabled (rule pol2-disable-allowed, 8.2.3/3.8)
}
