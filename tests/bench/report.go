//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// report is the result of a run, as it is written in JSON.
type report struct {
	Date        time.Time `json:"date"`
	Commit      string    `json:"commit"`
	Go          string    `json:"go"`
	Caddy       string    `json:"caddy"`
	Kernel      string    `json:"kernel"`
	CPU         string    `json:"cpu"`
	CPUs        int       `json:"cpus"`
	Connections int       `json:"connections"`
	Rounds      int       `json:"rounds"`
	Warmup      string    `json:"warmup"`
	Duration    string    `json:"duration"`
	Samples     []sample  `json:"samples"`
}

// The samples of a variant's workload, in the order of the rounds.
func (r *report) of(variant, workload string) []sample {
	var found []sample
	for _, s := range r.Samples {
		if s.Variant == variant && s.Workload == workload {
			found = append(found, s)
		}
	}
	return found
}

// medianOf returns the median over the samples of one of their values.
func medianOf(samples []sample, value func(sample) float64) float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = value(s)
	}
	return median(values)
}

// ratio compares a variant with the baseline within each round, because the
// machine is not equally fast in all of them, and returns the median.
func (r *report) ratio(samples []sample, workload string) (float64, bool) {
	var ratios []float64
	for _, base := range r.of(baseline, workload) {
		for _, s := range samples {
			if s.Round == base.Round && base.RPS > 0 {
				ratios = append(ratios, s.RPS/base.RPS)
			}
		}
	}
	return median(ratios), len(ratios) > 0
}

// markdown renders the report with one table for each workload.
func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Measured %s at commit %s with %s and Caddy %s on %d × %s, Linux %s.\n",
		r.Date.Format("2006-01-02 15:04 MST"), r.Commit, r.Go, r.Caddy, r.CPUs, r.CPU, r.Kernel)
	fmt.Fprintf(&b, "%d connections in a closed loop; rounds: %d, each of %s after a warm-up of %s, the order reversed in every other round.\n",
		r.Connections, r.Rounds, r.Duration, r.Warmup)
	b.WriteString("Medians over the rounds; [lowest–highest]; “× Caddy” is the median of the ratios within a round. ")
	b.WriteString("CPU in µs per request and memory (RSS) in MB at the end, of the first hop (Caddy, the router), the second (Caddy, the adapter) and the app. ")
	b.WriteString("Client, hops and app share the machine")
	fmt.Fprintf(&b, "; other processes took %.0f %% of it (median; highest %.0f %%).\n",
		100*medianOf(r.Samples, func(s sample) float64 { return s.Foreign }), 100*r.highestForeign())

	for _, w := range workloads {
		if !slices.ContainsFunc(r.Samples, func(s sample) bool { return s.Workload == w.name }) {
			continue
		}
		fmt.Fprintf(&b, "\n**%s**\n\n", w.title)
		b.WriteString("| variant | requests/s | × Caddy | p50 ms | p99 ms | CPU 1st | 2nd | app | sum | client | MB 1st | 2nd | app |\n")
		b.WriteString("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
		for _, v := range variants {
			r.row(&b, v, w)
		}
	}
	if failed := r.failures(); len(failed) > 0 {
		fmt.Fprintf(&b, "\nFailed requests:\n\n%s", strings.Join(failed, ""))
	}
	return b.String()
}

func (r *report) row(b *strings.Builder, v variant, w workload) {
	samples := r.of(v.name, w.name)
	if len(samples) == 0 {
		return
	}
	rps := func(s sample) float64 { return s.RPS }
	low := slices.MinFunc(samples, func(a, b sample) int { return int(a.RPS - b.RPS) }).RPS
	high := slices.MaxFunc(samples, func(a, b sample) int { return int(a.RPS - b.RPS) }).RPS
	times := "–"
	if q, ok := r.ratio(samples, w.name); ok {
		times = fmt.Sprintf("%.2f", q)
	}
	fmt.Fprintf(b, "| %s | %s [%s–%s] | %s | %.2f | %.2f |", v.title,
		thousands(medianOf(samples, rps)), thousands(low), thousands(high), times,
		medianOf(samples, func(s sample) float64 { return s.P50 }),
		medianOf(samples, func(s sample) float64 { return s.P99 }))
	for _, ro := range roles {
		fmt.Fprintf(b, " %s |", cell(samples, ro, func(u usage) float64 { return u.CPUMicros }))
	}
	fmt.Fprintf(b, " %.1f | %.1f |",
		medianOf(samples, func(s sample) (sum float64) {
			for _, u := range s.Usage {
				sum += u.CPUMicros
			}
			return sum
		}),
		medianOf(samples, func(s sample) float64 { return s.LoadCPU }))
	for _, ro := range roles {
		fmt.Fprintf(b, " %s |", cell(samples, ro, func(u usage) float64 { return float64(u.RSS) / (1 << 20) }))
	}
	b.WriteString("\n")
}

// cell renders the median of a value of one role, or a dash where the variant
// has no such process.
func cell(samples []sample, ro role, value func(usage) float64) string {
	if _, ok := samples[0].Usage[ro]; !ok {
		return "–"
	}
	return fmt.Sprintf("%.1f", medianOf(samples, func(s sample) float64 { return value(s.Usage[ro]) }))
}

func (r *report) highestForeign() (highest float64) {
	for _, s := range r.Samples {
		highest = max(highest, s.Foreign)
	}
	return highest
}

func (r *report) failures() (lines []string) {
	for _, s := range r.Samples {
		if s.Failures > 0 {
			lines = append(lines, fmt.Sprintf("- %s, %s, round %d: %d of %d, first: %s\n",
				s.Variant, s.Workload, s.Round, s.Failures, s.Failures+s.Requests, s.FirstErr))
		}
	}
	return lines
}

// thousands renders a whole number in groups of three digits.
func thousands(v float64) string {
	digits := fmt.Sprintf("%.0f", v)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

func (r *report) writeJSON(path string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

// The lines between which the results stand in a Markdown file.
const (
	markBegin = "<!-- bench: begin -->"
	markEnd   = "<!-- bench: end -->"
)

var errMarks = errors.New("the file needs the lines " + markBegin + " and " + markEnd)

// insert replaces what stands between the marks of a document.
func insert(document []byte, text string) ([]byte, error) {
	begin := bytes.Index(document, []byte(markBegin))
	end := bytes.Index(document, []byte(markEnd))
	if begin < 0 || end < begin {
		return nil, errMarks
	}
	begin += len(markBegin)
	return slices.Concat(document[:begin], []byte("\n\n"+text+"\n"), document[end:]), nil
}

func writeMarkdown(path, text string) error {
	document, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if document, err = insert(document, text); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, document, 0o644)
}
