package rules

import (
	"fmt"
	"slices"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"go.yaml.in/yaml/v3"
)

// expression is one that is ready to be asked.
type expression struct {
	metered cel.Program
	// unmetered is for inputs within the bounds that the cost was estimated for,
	// where the estimate is far below MaxCost: the meter costs more than the rest
	// together. nil where it is not.
	unmetered cel.Program
	constant  ref.Val // what it always gives, where variables are all it reads
}

// unmeteredCost is what an expression may cost by estimate and go unmetered: a
// tenth of what is allowed, for what the estimate may leave out.
const unmeteredCost = MaxCost / 10

func (e *expression) eval(a *activation) (bool, error) {
	v := e.constant
	if v == nil {
		p := e.metered
		if a.bounded && e.unmetered != nil {
			p = e.unmetered
		}
		var err error
		if v, _, err = p.Eval(a); err != nil {
			return false, err
		}
	}
	b, ok := v.(types.Bool)
	if !ok {
		return false, fmt.Errorf("the expression gave %s, bool wanted", v.Type().TypeName())
	}
	return bool(b), nil
}

// readsNothing reports whether an expression reads none of the variables that
// differ from request to request.
func readsNothing(tree *ast.AST) bool {
	for _, r := range tree.ReferenceMap() {
		if slices.Contains(changing, r.Name) {
			return false
		}
	}
	return true
}

// expression compiles a scalar.
func (p *parser) expression(n *yaml.Node) *expression {
	if _, ok := p.str(n, "an expression", maxExpression); !ok {
		return nil
	}
	e, faults := p.compile(n.Value)
	for _, f := range faults {
		p.fail(locate(p.lines, n, f.at), "%s", f.msg)
	}
	return e
}

// fault is what is wrong in an expression, and where in its text.
type fault struct {
	at  place
	msg string
}

func faultf(at place, format string, args ...any) []fault {
	return []fault{{at, fmt.Sprintf(format, args...)}}
}

// placeIn is of a place that CEL gives, whose columns are from 0.
func placeIn(l common.Location) place { return place{l.Line(), l.Column() + 1} }

// compile type-checks and plans one expression, of which the result is a bool.
func (p *parser) compile(text string) (*expression, []fault) {
	checked, issues := p.env.Compile(text)
	if errs := issues.Errors(); len(errs) > 0 {
		var out []fault
		for _, e := range errs[:min(len(errs), maxFaults)] {
			out = append(out, fault{placeIn(e.Location), e.Message})
		}
		return nil, out
	}
	whole := place{1, 1}
	if t := checked.OutputType(); !t.IsExactType(types.BoolType) {
		return nil, faultf(whole, "the expression gives %s, bool wanted", t)
	}
	tree := checked.NativeRep()
	if made := ast.MatchDescendants(ast.NavigateAST(tree), ast.KindMatcher(ast.StructKind)); len(made) > 0 {
		return nil, faultf(placeIn(tree.SourceInfo().GetStartLocation(made[0].ID())), "objects cannot be made")
	}
	if faults := p.windows(tree); len(faults) > 0 {
		return nil, faults
	}
	est, err := p.env.EstimateCost(checked, sizes{p.vars})
	if err != nil {
		return nil, faultf(whole, "%v", err)
	}
	if est.Max > MaxCost {
		most := fmt.Sprint(est.Max)
		if est.Max > 1e12 {
			most = "without bound"
		}
		return nil, faultf(whole, "the expression may cost %s, at most %d (for %d profiles, %d groups, texts of %d characters)", most, MaxCost, maxProfiles, maxGroups, maxString)
	}
	e := &expression{}
	if e.metered, err = p.env.Program(checked, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(MaxCost)); err != nil {
		return nil, faultf(whole, "%v", err)
	}
	if est.Max <= unmeteredCost {
		if e.unmetered, err = p.env.Program(checked, cel.EvalOptions(cel.OptOptimize)); err != nil {
			return nil, faultf(whole, "%v", err)
		}
	}
	if readsNothing(tree) {
		if e.constant, _, err = e.metered.Eval(&activation{in: &Input{}}); err != nil {
			return nil, faultf(whole, "%v", err)
		}
	}
	return e, nil
}

// windows parses every window of an expression. They stand in the expression or
// in a variable, so that none can turn out bad when a request is judged.
func (p *parser) windows(tree *ast.AST) (faults []fault) {
	for _, call := range ast.MatchDescendants(ast.NavigateAST(tree), ast.FunctionMatcher("within")) {
		faults = append(faults, p.window(tree, call.AsCall().Args()[1])...)
	}
	return faults
}

func (p *parser) window(tree *ast.AST, arg ast.Expr) (faults []fault) {
	at := placeIn(tree.SourceInfo().GetStartLocation(arg.ID()))
	switch arg.Kind() {
	case ast.LiteralKind:
		if err := p.s.windows.add(arg.AsLiteral()); err != nil {
			return faultf(at, "%v", err)
		}
		return nil
	case ast.ListKind:
		for _, e := range arg.AsList().Elements() {
			faults = append(faults, p.window(tree, e)...)
		}
		return faults
	case ast.SelectKind:
		if sel := arg.AsSelect(); sel.Operand().Kind() == ast.IdentKind && sel.Operand().AsIdent() == "vars" {
			v := p.vars[sel.FieldName()]
			for i, text := range v.texts() {
				if err := p.s.windows.add(text); err != nil {
					p.fail(v.places[i], "%v", err)
				}
			}
			return nil
		}
	}
	return faultf(at, "a window is written out, or a variable")
}

// bounded reports whether in is within the bounds that costs are estimated with.
func (in *Input) bounded() bool {
	if len(in.User) > maxString || len(in.History.Groups) > maxGroups || in.Operator != nil && len(in.Operator.Name) > maxString {
		return false
	}
	for name := range in.History.Groups {
		if len(name) > maxString {
			return false
		}
	}
	if in.Card == nil {
		return true
	}
	if len(in.Card.Profiles) > maxProfiles || len(in.Card.Groups) > maxGroups {
		return false
	}
	for _, g := range in.Card.Groups {
		if len(g) > maxString {
			return false
		}
	}
	for i := range in.Card.Profiles {
		if p := &in.Card.Profiles[i]; len(p.Class) > maxString || len(p.Provider) > maxString || len(p.Name) > maxString {
			return false
		}
	}
	return true
}

// sizes are the bounds that an expression's cost is estimated with.
type sizes struct{ vars map[string]variable }

// lengths are of the texts that have one.
var lengths = map[string]uint64{"id": 36, "eid": 32, "iccid": 20, "mccmnc": 6, "state": 8, "management": 6}

// EstimateSize implements cost.Estimator. What an expression makes itself has no
// path; its size follows from what it is made of.
func (s sizes) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	path := n.Path()
	if len(path) == 0 {
		return nil
	}
	last := path[len(path)-1]
	if v, ok := s.vars[last]; ok && len(path) == 2 && path[0] == "vars" {
		return sizeOf(v.value)
	}
	var most uint64
	switch n.Type().Kind() {
	case types.StructKind:
		most = 1 // to compare two is one step
	case types.StringKind:
		most = maxString
		if l, ok := lengths[last]; ok && path[0] != "vars" {
			most = l
		}
		if path[0] == "vars" {
			most = maxText
		}
	case types.ListKind, types.MapKind:
		most = maxGroups
		if last == "profiles" {
			most = maxProfiles
		}
	default:
		return nil
	}
	r := cost.RangedSizeEstimate(0, most)
	return &r
}

// EstimateCallCost implements cost.Estimator.
func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

func sizeOf(v ref.Val) *cost.SizeEstimate {
	if s, ok := v.(traits.Sizer); ok {
		n := cost.FixedSizeEstimate(uint64(s.Size().(types.Int)))
		return &n
	}
	return nil
}
