package pool

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/lambda-dispatch/lambda-dispatch/internal/scale"
)

// counts is a Metrics that counts requests without a slot.
type counts struct {
	discard
	waited   atomic.Int64
	mu       sync.Mutex // guards rejected
	rejected map[Rejection]int
}

func (c *counts) Waited(time.Duration) { c.waited.Add(1) }

func (c *counts) Rejected(why Rejection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rejected[why]++
}

func (c *counts) of(why Rejection) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rejected[why]
}

// A slot and the news that the client has left come at the same moment. The app
// must not see the request, whichever is looked at first, and the slot is free.
func TestClientThatLeftGetsNoSlot(t *testing.T) {
	set := settings()
	set.Scale = scale.Config{MaxConcurrent: 1, TargetConcurrent: 1, MaxInstances: 1, IdleTimeout: time.Minute}
	play(t, set, newFakeLambda(), func(s *scene) {
		for range 50 { // it is a matter of luck which is looked at first
			first := s.lease()
			leaver, err := s.pool.Enter()
			if err != nil || !leaver.Queued() {
				s.Fatalf("queued %v, error %v", leaver.Queued(), err)
			}
			ctx, leave := context.WithCancel(s.Context())
			first.Release()
			leave()
			if err := leaver.Wait(ctx); !errors.Is(err, context.Canceled) {
				s.Fatalf("error is %v", err)
			}
			if n := s.pool.Snapshot().InFlight; n != 0 {
				s.Fatalf("%d in flight", n)
			}
		}
		s.lease().Release()
	})
}

// A client that leaves while its request waits for a second instance is out of
// the queue, too.
func TestClientThatLeavesBetweenAttempts(t *testing.T) {
	f := newFakeLambda()
	set := settings()
	set.Scale = scale.Config{MaxConcurrent: 1, TargetConcurrent: 1, MaxInstances: 1, IdleTimeout: time.Minute}
	play(t, set, f, func(s *scene) {
		l := s.lease()
		f.mu.Lock()
		f.coldStart = time.Hour
		f.mu.Unlock()
		_ = f.tunnel(0).Close()
		ctx, leave := context.WithTimeout(s.Context(), time.Second)
		defer leave()
		if _, err := l.RoundTrip(request("GET", nil).WithContext(ctx)); !errors.Is(err, context.DeadlineExceeded) {
			s.Errorf("error is %v", err)
		}
		if n := s.pool.Snapshot().Queued; n != 0 {
			s.Errorf("%d still queued", n)
		}
		l.Release()
		synctest.Wait()
		if n := s.pool.Snapshot().InFlight; n != 0 {
			s.Errorf("%d in flight", n)
		}
	})
}

// A million clients that leave, in every state that a request can be in, leave
// nothing behind, and those who stay are served.
func TestAMillionClientsThatLeave(t *testing.T) {
	total := 1_000_000
	if testing.Short() {
		total = 20_000
	}
	const crowd = 30 // clients at once, on 10 slots
	f := newFakeLambda()
	metrics := &counts{rejected: make(map[Rejection]int)}
	p := New("p", zap.NewNop(), metrics)
	p.Configure(Settings{
		Scale:     scale.Config{MaxConcurrent: 10, TargetConcurrent: 10, MinInstances: 1, MaxInstances: 1, IdleTimeout: time.Hour},
		QueueSize: crowd - 11, QueueTimeout: time.Minute, Invoker: f, Callback: f,
	})
	before := measure(t, p)
	ctx := t.Context()
	req := request("GET", nil)

	var left, served, refused atomic.Int64
	client := func() {
		l, err := p.Enter()
		if errors.Is(err, ErrQueueFull) {
			refused.Add(1)
			runtime.Gosched()
			return
		}
		if err != nil {
			t.Error(err)
			return
		}
		defer l.Release()
		if rand.IntN(8) == 0 {
			left.Add(1)
			return // before it even waits
		}
		ctx, leave := context.WithCancel(ctx)
		defer leave()
		stays := rand.IntN(4) == 0
		switch rand.IntN(3) {
		case 0:
			if !stays {
				leave() // before it waits
			}
		case 1:
			if !stays {
				go leave() // at any moment
			}
		}
		if err := l.Wait(ctx); err != nil {
			if stays || !errors.Is(err, context.Canceled) {
				t.Errorf("a client that stays %v: %v", stays, err)
			}
			left.Add(1)
			return
		}
		if !stays && rand.IntN(2) == 0 {
			left.Add(1)
			return // with its slot
		}
		runtime.Gosched() // others come while it has its slot
		resp, err := l.RoundTrip(req.WithContext(ctx))
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%v, %v", resp, err)
		}
		served.Add(1)
	}
	var asked atomic.Int64
	var clients sync.WaitGroup
	for range crowd {
		clients.Go(func() {
			for left.Load() < int64(total) && !t.Failed() {
				client()
				asked.Add(1)
			}
		})
	}
	clients.Wait()

	after := measure(t, p)
	t.Logf("%d clients left, %d were served, %d refused; goroutines %d, then %d; heap %d KB, then %d KB",
		left.Load(), served.Load(), refused.Load(), before.goroutines, after.goroutines, before.heap>>10, after.heap>>10)
	if left.Load() == 0 || served.Load() == 0 || refused.Load() == 0 || metrics.of(RejectedClientGone) == 0 {
		t.Error("not every kind of client was there")
	}
	if n := metrics.of(RejectedFull); n != int(refused.Load()) {
		t.Errorf("%d requests counted as refused, want %d", n, refused.Load())
	}
	if n := int64(metrics.of(RejectedClientGone)) + metrics.waited.Load() + refused.Load(); n != asked.Load()+2 {
		t.Errorf("%d requests are in the metrics, want %d and 2 of the measurements", n, asked.Load())
	}
	if after.goroutines > before.goroutines+5 {
		t.Errorf("%d goroutines are left of %d", after.goroutines, before.goroutines)
	}
	if after.heap > before.heap+(1<<20) {
		t.Errorf("heap has grown from %d to %d bytes", before.heap, after.heap)
	}
	s := p.Snapshot()
	if s.Queued != 0 || s.InFlight != 0 || s.FreeSlots != 10 {
		t.Errorf("queued %d, in flight %d, free slots %d", s.Queued, s.InFlight, s.FreeSlots)
	}
	if err := p.Close(ctx); err != nil {
		t.Error(err)
	}
}

type footprint struct {
	goroutines int
	heap       uint64 // bytes
}

// measure waits for the instance to be ready and what is running to end, and
// says what is left.
func measure(t *testing.T, p *Pool) footprint {
	t.Helper()
	l, err := p.Enter()
	if err == nil {
		err = l.Wait(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	l.Release()
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return footprint{runtime.NumGoroutine(), m.HeapAlloc}
}
