package main

import (
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
)

// Verdict is a case's outcome.
type Verdict struct {
	Case     Case
	Passed   int
	Failures []Spec
	// Skipped specs, each with its reason.
	Skipped []string
	// Pending specs are switched off in the suite's own source.
	Pending []string
	// Problems are everything else that must not be.
	Problems []string
	// Tail is the end of the logs when something did not start.
	Tail  []string
	Calls int
	Uses  map[string]int
}

func (v *Verdict) problem(format string, arguments ...any) {
	v.Problems = append(v.Problems, fmt.Sprintf(format, arguments...))
}

func (v *Verdict) good() bool { return len(v.Failures) == 0 && len(v.Problems) == 0 && v.Passed > 0 }

func (v *Verdict) counts() string {
	word := "ok"
	if !v.good() {
		word = "FAILED"
	}
	text := fmt.Sprintf("%d passed, %d failed, %d skipped, %d pending: %s",
		v.Passed, len(v.Failures), len(v.Skipped), len(v.Pending), word)
	if len(v.Problems) > 0 {
		text += fmt.Sprintf(" (%d problems)", len(v.Problems))
	}
	return text
}

// judge compares what ran with what the capabilities imply.
func (v *Verdict) judge(report *Report) {
	if report == nil {
		return
	}
	has := slices.Clone(report.Capabilities)
	if report.MaxVolumes > 0 {
		has = append(has, attachLimit)
	}
	for _, capability := range promised {
		if !slices.Contains(has, capability) {
			v.problem("the driver does not declare %s, which it promises", capability)
		}
	}
	count := 0
	for _, spec := range report.Specs {
		count++
		missing := lacks(spec, has)
		switch spec.State {
		case "passed":
			v.Passed++
			if len(missing) > 0 {
				v.problem("ran without %s: the table in expect.go is wrong about %q", strings.Join(missing, ", "), spec.Name())
			}
		case "skipped":
			v.Skipped = append(v.Skipped, fmt.Sprintf("%s (%s)", spec.Name(), reason(missing)))
			if len(missing) == 0 {
				v.problem("skipped, although the driver declares all that it needs: %q (%s)", spec.Name(), spec.Message)
			}
		case "pending":
			v.Pending = append(v.Pending, spec.Name())
		default:
			v.Failures = append(v.Failures, spec)
		}
	}
	if count != suiteSpecs {
		v.problem("%d specs reported, csi-sanity %s has %d", count, suiteVersion, suiteSpecs)
	}
	if len(v.Pending) > 1 {
		v.problem("%d specs pending, csi-sanity %s has 1", len(v.Pending), suiteVersion)
	}
	v.judgeUses(report.Uses)
	for _, calls := range report.Calls {
		v.Calls += calls
	}
}

// judgeUses holds the case to the file system (or block device) that it is about.
func (v *Verdict) judgeUses(uses map[string]int) {
	v.Uses = uses
	for kind, count := range uses {
		if kind != v.Case.Uses {
			v.problem("%d times %s was found mounted, expected only %s", count, kind, v.Case.Uses)
		}
	}
	if uses[v.Case.Uses] == 0 {
		v.problem("%s was never found mounted", v.Case.Uses)
	}
}

func (v *Verdict) print(out io.Writer) {
	sort.Strings(v.Skipped)
	for _, line := range v.Skipped {
		fmt.Fprintln(out, "  skipped:", line)
	}
	for _, line := range v.Pending {
		fmt.Fprintf(out, "  pending: %s (switched off in csi-sanity itself)\n", line)
	}
	for _, spec := range v.Failures {
		fmt.Fprintf(out, "  %s: %s\n%s\n", strings.ToUpper(spec.State), spec.Name(), indent(spec.Message))
		if spec.Output != "" {
			fmt.Fprintln(out, indent(last(spec.Output, 25)))
		}
	}
	for _, line := range v.Problems {
		fmt.Fprintln(out, "  PROBLEM:", line)
	}
	for _, line := range v.Tail {
		fmt.Fprintln(out, "    "+line)
	}
	if v.Calls > 0 {
		fmt.Fprintf(out, "  %d calls; mounts looked at: %v\n", v.Calls, v.Uses)
	}
}

func indent(text string) string {
	return "      " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n      ")
}

func last(text string, count int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) > count {
		lines = lines[len(lines)-count:]
	}
	return strings.Join(lines, "\n")
}
