package rules

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/cardbridge/cardbridge/card/id"
)

// The objects that expressions see are the Go values themselves, under the type
// that says which fields they have.
type (
	requestObject  Input
	operatorObject Input
	cardObject     Input
	profileObject  Profile
	historyObject  Input
	countsObject   Counts
	varsObject     struct{}
)

var (
	requestType  = types.NewObjectType("request")
	operatorType = types.NewObjectType("operator")
	cardType     = types.NewObjectType("card")
	profileType  = types.NewObjectType("profile")
	historyType  = types.NewObjectType("history")
	countsType   = types.NewObjectType("counts")
	varsType     = types.NewObjectType("vars")
	stringList   = types.NewListType(types.StringType)
)

// noProfile is the profile where there is none.
var noProfile = Profile{Absent: true}

// field is one field of an object: its type, and how to get it.
type field struct {
	t   *types.Type
	get func(any) ref.Val
}

func of[T any](t *types.Type, get func(*T) ref.Val) field {
	return field{t, func(v any) ref.Val { return get(v.(*T)) }}
}

func boolean[T any](get func(*T) bool) field {
	return of(types.BoolType, func(v *T) ref.Val { return types.Bool(get(v)) })
}

func integer[T any](get func(*T) int64) field {
	return of(types.IntType, func(v *T) ref.Val { return types.Int(get(v)) })
}

func text[T any](get func(*T) string) field {
	return of(types.StringType, func(v *T) ref.Val { return types.String(get(v)) })
}

// instant is a time, the epoch where it is not known: no other would let now be
// subtracted from it.
func instant[T any](get func(*T) time.Time) field {
	return of(types.TimestampType, func(v *T) ref.Val { return timestamp(get(v)) })
}

func timestamp(t time.Time) ref.Val {
	if t.IsZero() {
		t = time.Unix(0, 0)
	}
	return types.Timestamp{Time: t.UTC()}
}

// objects are the types that expressions see and their fields; docs/rules.md
// has them for whoever writes rules.
var objects = map[*types.Type]map[string]field{
	requestType: {
		"id": text(func(in *requestObject) string {
			if in.Request == nil {
				return ""
			}
			return in.Request.String()
		}),
		"eid": text(func(in *requestObject) string { return in.EID.String() }),
		"iccid": text(func(in *requestObject) string {
			if in.ICCID == nil {
				return ""
			}
			return in.ICCID.String()
		}),
		"reason":            integer(func(in *requestObject) int64 { return int64(in.Reason) }),
		"user":              text(func(in *requestObject) string { return in.User }),
		"leave_unconnected": boolean(func(in *requestObject) bool { return in.LeaveUnconnected }),
	},
	operatorType: {
		"known": boolean(func(in *operatorObject) bool { return in.Operator != nil }),
		"name": text(func(in *operatorObject) string {
			if in.Operator == nil {
				return ""
			}
			return in.Operator.Name
		}),
		"mccmnc": text(func(in *operatorObject) string {
			if in.Operator == nil {
				return ""
			}
			return digits(in.Operator.MCCMNC)
		}),
	},
	cardType: {
		"known":         boolean(func(in *cardObject) bool { return in.Card != nil }),
		"eid":           text(func(in *cardObject) string { return in.EID.String() }),
		"registered":    boolean(func(in *cardObject) bool { return in.record().Registered }),
		"management":    of(types.StringType, func(in *cardObject) ref.Val { return types.String(in.record().management()) }),
		"groups":        of(stringList, func(in *cardObject) ref.Val { return types.NewStringList(adapter{}, in.record().Groups) }),
		"event_counter": integer(func(in *cardObject) int64 { return int64(in.record().EventCounter) }),
		"unsettled":     boolean(func(in *cardObject) bool { return in.record().Unsettled }),
		"registered_at": instant(func(in *cardObject) time.Time { return in.record().RegisteredAt }),
		"profiles": of(types.NewListType(profileType), func(in *cardObject) ref.Val {
			profiles := in.record().Profiles
			list := make([]ref.Val, len(profiles))
			for i := range profiles {
				list[i] = object{profileType, (*profileObject)(&profiles[i])}
			}
			return types.NewRefValList(adapter{}, list)
		}),
	},
	profileType: {
		"known":           boolean(func(p *profileObject) bool { return (*Profile)(p) != &noProfile }),
		"iccid":           text(func(p *profileObject) string { return p.iccid() }),
		"mccmnc":          text(func(p *profileObject) string { return p.owner() }),
		"state":           of(types.StringType, func(p *profileObject) ref.Val { return p.state() }),
		"class":           text(func(p *profileObject) string { return p.Class }),
		"provider":        text(func(p *profileObject) string { return p.Provider }),
		"name":            text(func(p *profileObject) string { return p.Name }),
		"ppr1":            boolean(func(p *profileObject) bool { return p.PPR1 }),
		"ppr2":            boolean(func(p *profileObject) bool { return p.PPR2 }),
		"fallback":        boolean(func(p *profileObject) bool { return p.Fallback }),
		"disable_allowed": boolean(func(p *profileObject) bool { return p.DisableAllowed }),
		"enabled_at":      instant(func(p *profileObject) time.Time { return p.EnabledAt }),
	},
	historyType: {
		"operator": of(countsType, func(in *historyObject) ref.Val { return object{countsType, (*countsObject)(&in.History.Operator)} }),
		"groups": of(types.NewMapType(types.StringType, countsType), func(in *historyObject) ref.Val {
			groups := make(map[ref.Val]ref.Val, len(in.History.Groups))
			for name, c := range in.History.Groups {
				groups[types.String(name)] = object{countsType, (*countsObject)(&c)}
			}
			return types.NewRefValMap(adapter{}, groups)
		}),
	},
	countsType: {
		"asked":   integer(func(c *countsObject) int64 { return c.Asked }),
		"sent":    integer(func(c *countsObject) int64 { return c.Sent }),
		"pending": integer(func(c *countsObject) int64 { return c.Pending }),
		"fleet":   integer(func(c *countsObject) int64 { return c.Fleet }),
		"max":     integer(func(c *countsObject) int64 { return c.Max }),
		"ceiling": integer(func(c *countsObject) int64 { return c.Ceiling }),
	},
}

func (in *cardObject) record() *Card {
	if in.Card == nil {
		return &Card{}
	}
	return in.Card
}

func (c *Card) management() string {
	if c.Plain {
		return managedByES10c
	}
	return managedByApplet
}

func (p *profileObject) iccid() string {
	if (*Profile)(p) == &noProfile {
		return ""
	}
	return p.ICCID.String()
}

func (p *profileObject) owner() string {
	if (*Profile)(p) == &noProfile {
		return ""
	}
	return digits(p.Owner)
}

// state is as in a card image (docs/protocol.md §9), or absent.
func (p *profileObject) state() types.String {
	switch {
	case p.Absent:
		return "absent"
	case p.Enabled:
		return "enabled"
	}
	return "disabled"
}

// digits is m.String in a fraction of the time.
func digits(m id.MCCMNC) string {
	b := [6]byte{'0' + m[0]&15, '0' + m[0]>>4, '0' + m[1]&15, '0' + m[2]&15, '0' + m[2]>>4, '0' + m[1]>>4}
	if m[1]>>4 == 0x0F {
		return string(b[:5])
	}
	return string(b[:])
}

// object is an object as a value of CEL's. Two are equal if they are the same.
type object struct {
	t *types.Type
	v any // a pointer
}

func (o object) ConvertToNative(t reflect.Type) (any, error) {
	return nil, fmt.Errorf("a %s does not convert to %s", o.t.TypeName(), t)
}

func (o object) ConvertToType(t ref.Type) ref.Val {
	if t == types.TypeType {
		return o.t
	}
	return types.NewErr("a %s does not convert to %s", o.t.TypeName(), t.TypeName())
}

func (o object) Equal(other ref.Val) ref.Val { return types.Bool(ref.Val(o) == other) }
func (o object) Type() ref.Type              { return o.t }
func (o object) Value() any                  { return o.v }

// adapter makes values of what an activation and fields give.
type adapter struct{}

func (adapter) NativeToValue(v any) ref.Val {
	switch v := v.(type) {
	case ref.Val:
		return v
	case *requestObject:
		return object{requestType, v}
	case *operatorObject:
		return object{operatorType, v}
	case *cardObject:
		return object{cardType, v}
	case *profileObject:
		return object{profileType, v}
	case *historyObject:
		return object{historyType, v}
	case *varsObject:
		return object{varsType, v}
	}
	return types.DefaultTypeAdapter.NativeToValue(v)
}

// provider knows the fields of the objects, and the variables of one file.
// None can be made in an expression.
type provider struct {
	*types.Registry
	fields map[string]map[string]field // by the type's name
}

func newProvider(vars map[string]variable) (*provider, error) {
	reg, err := types.NewRegistry()
	if err != nil {
		return nil, err
	}
	p := &provider{reg, map[string]map[string]field{}}
	for t, fields := range objects {
		p.fields[t.TypeName()] = fields
	}
	mine := map[string]field{}
	for name, v := range vars {
		mine[name] = field{v.t, func(any) ref.Val { return v.value }}
	}
	p.fields[varsType.TypeName()] = mine
	return p, nil
}

func (p *provider) FindStructType(name string) (*types.Type, bool) {
	if _, ok := p.fields[name]; ok {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return p.Registry.FindStructType(name)
}

func (p *provider) FindStructFieldNames(name string) ([]string, bool) {
	if fields, ok := p.fields[name]; ok {
		return slices.Sorted(maps.Keys(fields)), true
	}
	return p.Registry.FindStructFieldNames(name)
}

func (p *provider) FindStructFieldType(name, field string) (*types.FieldType, bool) {
	fields, ok := p.fields[name]
	if !ok {
		return p.Registry.FindStructFieldType(name, field)
	}
	f, ok := fields[field]
	if !ok {
		return nil, false
	}
	return &types.FieldType{
		Type:    f.t,
		GetFrom: func(v any) (any, error) { return f.get(v), nil },
		IsSet: func(v any) bool {
			z, ok := f.get(v).(traits.Zeroer)
			return !ok || !z.IsZeroValue()
		},
	}, true
}

// changing are the variables that differ from request to request.
var changing = []string{"request", "operator", "card", "profile", "history", "now"}

// activation gives an evaluation its variables.
type activation struct {
	in      *Input
	profile *Profile // nil if there is none
	now     ref.Val
	bounded bool // in is within the bounds of estimates
}

func (a *activation) reset(in *Input) {
	now := in.Now
	if now.IsZero() {
		now = time.Now()
	}
	a.in, a.profile, a.now, a.bounded = in, in.profile(), timestamp(now), in.bounded()
}

// owned reports whether the profile meant is one that whoever asks may know of.
func (a *activation) owned() bool {
	return a.profile != nil && a.in.Operator != nil && a.in.Card.Registered && a.profile.Owner == a.in.Operator.MCCMNC
}

// Parent implements cel.Activation.
func (a *activation) Parent() cel.Activation { return nil }

// ResolveName implements cel.Activation.
func (a *activation) ResolveName(name string) (any, bool) {
	switch name {
	case "request":
		return (*requestObject)(a.in), true
	case "operator":
		return (*operatorObject)(a.in), true
	case "card":
		return (*cardObject)(a.in), true
	case "profile":
		if a.profile == nil {
			return (*profileObject)(&noProfile), true
		}
		return (*profileObject)(a.profile), true
	case "history":
		return (*historyObject)(a.in), true
	case "now":
		return a.now, true
	case "vars":
		return (*varsObject)(nil), true
	}
	return nil, false
}

// Bounds of one expression.
const (
	maxExpression = 4096 // characters
	maxDepth      = 50
	maxRegexp     = 256 // instructions
	maxFaults     = 10  // that are told
	withinCost    = 20  // of looking at one window
)

// newEnv is CEL as rules have it: its standard functions and macros, the
// objects, and within.
func newEnv(vars map[string]variable, w windows) (*cel.Env, error) {
	p, err := newProvider(vars)
	if err != nil {
		return nil, err
	}
	return cel.NewEnv(
		cel.CustomTypeAdapter(adapter{}),
		cel.CustomTypeProvider(p),
		cel.Variable("request", requestType),
		cel.Variable("operator", operatorType),
		cel.Variable("card", cardType),
		cel.Variable("profile", profileType),
		cel.Variable("history", historyType),
		cel.Variable("now", types.TimestampType),
		cel.Variable("vars", varsType),
		cel.Function("within",
			cel.Overload(withinOne, []*cel.Type{cel.TimestampType, cel.StringType}, cel.BoolType, cel.BinaryBinding(w.one)),
			cel.Overload(withinAny, []*cel.Type{cel.TimestampType, stringList}, cel.BoolType, cel.BinaryBinding(w.any)),
		),
		cel.CostModel(
			cost.Overload(withinOne, cost.EvalCost(cost.Const(withinCost))),
			cost.Overload(withinAny, cost.EvalCost(cost.Sum(cost.Const(1), cost.Scale(cost.Length(cost.Arg(1)), withinCost)))),
		),
		cel.DefaultUTCTimeZone(true),
		cel.ParserExpressionSizeLimit(maxExpression),
		cel.ParserRecursionLimit(maxDepth),
		cel.ParserErrorRecoveryLimit(4),
		cel.RegexProgramSizeLimit(maxRegexp),
	)
}

const (
	withinOne = "within_timestamp_string"
	withinAny = "within_timestamp_list"
)

// one is within(timestamp, string).
func (w windows) one(t, text ref.Val) ref.Val {
	at, ok1 := t.(types.Timestamp)
	s, ok2 := text.(types.String)
	if !ok1 || !ok2 {
		return types.MaybeNoSuchOverloadErr(text)
	}
	span := w[string(s)]
	if span == nil {
		return types.NewErr("window %.60q was not there when the rules were loaded", string(s))
	}
	return types.Bool(span.contains(at.Time))
}

// any is within(timestamp, list(string)): one of them will do.
func (w windows) any(t, list ref.Val) ref.Val {
	l, ok := list.(traits.Lister)
	if !ok {
		return types.MaybeNoSuchOverloadErr(list)
	}
	for it := l.Iterator(); it.HasNext() == types.True; {
		if v := w.one(t, it.Next()); v != types.False {
			return v
		}
	}
	return types.False
}
