package rules

// Names of the rules of First.
const (
	OperatorKnown   = "operator-known"
	CardRegistered  = "card-registered"
	ProfileKnown    = "profile-known"
	ProfileOwned    = "profile-owned"
	ProfileEnabled  = "profile-enabled"
	DisableAllowed  = "pol2-disable-allowed"
	unknownCard     = "no such card is registered"
	unknownProfile  = "the card has no such profile"
	noneEnabled     = "no profile of the operator is enabled in the card"
	subjectOperator = "1.1" // function requester
	subjectCard     = "8.1.1"
	subjectProfile  = "8.2.1"
	subjectPOL2     = "8.2.3"
	notAllowed      = "1.2"
	unknownEUICC    = "1.1"
	unknownICCID    = "3.9"
	refused         = "3.8"
)

// First is the first set of rules: the operator is known and registered the
// card, the profile is there and the operator's, its recorded state is
// enabled, and its POL2 allows that it is disabled.
func First() Set {
	return Set{
		{
			Name: OperatorKnown, SubjectCode: subjectOperator, ReasonCode: notAllowed,
			Check: func(in *Input) string {
				if in.Operator == nil {
					return "the operator is not known"
				}
				return ""
			},
		},
		{
			Name: CardRegistered, SubjectCode: subjectCard, ReasonCode: unknownEUICC,
			Check: func(in *Input) string {
				switch {
				case in.Card == nil:
					return unknownCard
				case !in.Card.Registered:
					return "the operator has not registered the card"
				}
				return ""
			},
			Face: func(*Input) *Refusal {
				return &Refusal{Rule: CardRegistered, SubjectCode: subjectCard, ReasonCode: unknownEUICC, Text: unknownCard}
			},
		},
		{
			// Without this a stranger learned which ICCIDs a card has.
			Name: ProfileOwned, SubjectCode: subjectProfile, ReasonCode: notAllowed,
			Check: func(in *Input) string {
				if !in.owns() {
					return "the operator owns no profile of the card"
				}
				if p := in.profile(); p != nil && p.Owner != in.Operator.MCCMNC {
					return "the operator does not own the profile"
				}
				return ""
			},
			Face: func(in *Input) *Refusal {
				if !in.owns() {
					return &Refusal{Rule: CardRegistered, SubjectCode: subjectCard, ReasonCode: unknownEUICC, Text: unknownCard}
				}
				if in.ICCID == nil {
					// The enabled profile is another's: to this one none of its own is.
					return &Refusal{Rule: ProfileEnabled, SubjectCode: subjectProfile, ReasonCode: notAllowed, Text: noneEnabled}
				}
				return &Refusal{Rule: ProfileKnown, SubjectCode: subjectProfile, ReasonCode: unknownICCID, Text: unknownProfile}
			},
		},
		{
			Name: ProfileKnown, SubjectCode: subjectProfile, ReasonCode: unknownICCID,
			Check: func(in *Input) string {
				p := in.profile()
				if in.ICCID != nil && (p == nil || p.Absent) {
					return unknownProfile
				}
				return ""
			},
		},
		{
			Name: ProfileEnabled, SubjectCode: subjectProfile, ReasonCode: notAllowed,
			Check: func(in *Input) string {
				p := in.profile()
				if p == nil {
					return noneEnabled
				}
				if !p.Enabled {
					return "the profile is not enabled"
				}
				return ""
			},
		},
		{
			Name: DisableAllowed, SubjectCode: subjectPOL2, ReasonCode: refused,
			Check: func(in *Input) string {
				if !in.profile().DisableAllowed {
					return "the profile's policy (POL2) does not allow that it is disabled"
				}
				return ""
			},
		},
	}
}
