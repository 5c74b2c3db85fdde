//go:build linux

package main

import (
	"fmt"
	"os"
	"time"
)

// usage is what the processes of one role took during a measured period.
type usage struct {
	CPUMicros    float64 `json:"cpu_us_per_request"`
	KernelMicros float64 `json:"kernel_us_per_request"` // of CPUMicros, in steps of 10 ms per period
	RSS          uint64  `json:"rss_bytes"`
}

// sample is one measured period of one variant.
type sample struct {
	Variant  string         `json:"variant"`
	Workload string         `json:"workload"`
	Round    int            `json:"round"`
	Requests int            `json:"requests"`
	Failures int            `json:"failures"`
	FirstErr string         `json:"first_failure,omitempty"`
	Seconds  float64        `json:"seconds"`
	RPS      float64        `json:"requests_per_second"`
	P50      float64        `json:"p50_ms"`
	P99      float64        `json:"p99_ms"`
	Usage    map[role]usage `json:"usage"`
	LoadCPU  float64        `json:"load_generator_cpu_us_per_request"`
	Foreign  float64        `json:"foreign_cpu_share"` // of all CPUs, used by processes that are not part of the benchmark
}

// snapshot is the state of the counters at one end of a period.
type snapshot struct {
	at     time.Time
	cpu    map[int]time.Duration
	kernel map[int]time.Duration
	own    time.Duration
	busy   time.Duration
}

func takeSnapshot(procs map[int]role) (snapshot, error) {
	s := snapshot{at: time.Now(), cpu: map[int]time.Duration{}, kernel: map[int]time.Duration{}}
	var err error
	if s.own, err = cpuTime(os.Getpid()); err != nil {
		return s, err
	}
	if s.busy, err = busy(); err != nil {
		return s, err
	}
	for pid := range procs {
		if s.cpu[pid], err = cpuTime(pid); err != nil {
			return s, err
		}
		st, err := readStat(pid)
		if err != nil {
			return s, err
		}
		s.kernel[pid] = st.system
	}
	return s, nil
}

// measure runs one workload against a system for one warm-up and one period.
func measure(s *system, w workload, round int, opts options) (sample, error) {
	procs, err := s.processes()
	if err != nil {
		return sample{}, err
	}
	var before, after snapshot
	out, err := run(s.target, w.request(s.target), opts.connections, opts.warmup, opts.duration,
		func() (err error) { before, err = takeSnapshot(procs); return err },
		func() (err error) { after, err = takeSnapshot(procs); return err },
	)
	if err != nil {
		return sample{}, fmt.Errorf("%s, %s: %w", s.variant.name, w.name, err)
	}
	sm := sample{
		Variant: s.variant.name, Workload: w.name, Round: round,
		Requests: len(out.latencies), Failures: out.failures,
		Seconds: out.elapsed.Seconds(),
		RPS:     float64(len(out.latencies)) / out.elapsed.Seconds(),
		P50:     milliseconds(percentile(out.latencies, 50)),
		P99:     milliseconds(percentile(out.latencies, 99)),
		Usage:   map[role]usage{},
	}
	if out.firstErr != nil {
		sm.FirstErr = out.firstErr.Error()
	}
	perRequest := func(d time.Duration) float64 {
		return float64(d.Nanoseconds()) / 1e3 / float64(max(1, len(out.latencies)))
	}
	ours := after.own - before.own
	sm.LoadCPU = perRequest(ours)
	for pid, r := range procs {
		resident, err := rss(pid)
		if err != nil {
			return sample{}, err
		}
		cpu := after.cpu[pid] - before.cpu[pid]
		ours += cpu
		u := sm.Usage[r]
		u.CPUMicros += perRequest(cpu)
		u.KernelMicros += perRequest(after.kernel[pid] - before.kernel[pid])
		u.RSS += resident
		sm.Usage[r] = u
	}
	capacity := after.at.Sub(before.at) * time.Duration(numCPU)
	sm.Foreign = max(0, float64(after.busy-before.busy-ours)/float64(capacity))
	return sm, nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }
