package caddymodule

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

// However a body comes, however much of it is read ahead, and whenever its
// request gets its slot, the reader gets it whole and the memory comes back.
func TestReadAhead(t *testing.T) {
	broken := errors.New("broken")
	rapid.Check(t, func(t *rapid.T) {
		body := make([]byte, rapid.IntRange(0, 300_000).Draw(t, "size"))
		dice := rand.NewChaCha8([32]byte{byte(len(body))})
		_, _ = dice.Read(body)
		var src io.Reader = bytes.NewReader(body)
		if rapid.Bool().Draw(t, "in small parts") {
			src = iotest.HalfReader(src)
		}
		want := error(nil)
		if rapid.Bool().Draw(t, "breaks") {
			want = broken
			src = io.MultiReader(src, iotest.ErrReader(broken))
		}
		if rapid.Bool().Draw(t, "error with the last part") {
			src = iotest.DataErrReader(src)
		}
		const room = 1 << 20
		m := newMemory(rapid.SampledFrom([]int64{0, firstPiece, firstPiece + otherPiece, room}).Draw(t, "memory"))
		size := m.left.Load()
		limit := rapid.SampledFrom([]int{1, firstPiece, 100_000, room}).Draw(t, "limit")

		var told error
		a := startReadAhead(src, m, limit, func(err error, _ bool) { told = err })
		if rapid.Bool().Draw(t, "slot comes late") {
			<-a.ended
		}
		ahead, err := io.ReadAll(iotest.OneByteReader(a))
		if rapid.Bool().Draw(t, "large buffer") {
			var more []byte
			more, err = io.ReadAll(a)
			ahead = append(ahead, more...)
		}
		got := ahead
		if errors.Is(err, errDrained) {
			var rest []byte
			rest, err = io.ReadAll(src)
			got = append(got, rest...)
		} else if want != nil && !errors.Is(told, want) {
			t.Errorf("told of %v, want %v", told, want)
		}
		if !bytes.Equal(got, body) {
			t.Errorf("got %d bytes that are not the %d of the body", len(got), len(body))
		}
		if !errors.Is(err, want) {
			t.Errorf("error is %v, want %v", err, want)
		}
		if len(ahead) > limit {
			t.Errorf("%d bytes were read ahead, the limit is %d", len(ahead), limit)
		}
		<-a.ended
		a.release()
		if left := m.left.Load(); left != size {
			t.Errorf("%d bytes of memory are back of %d", left, size)
		}
	})
}
