package caddymodule

import (
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// lastWords is how long the peers of a WebSocket that is being closed from
	// outside have to end it themselves, unless the instance is gone before.
	lastWords = time.Second
	// upgradeGrace is how long the client of a connection that is being closed
	// may take for what has already been written to it.
	upgradeGrace = time.Second
	// deliveryGrace is how long an app may take for what its client has sent, in
	// order, after the app had ended its own direction.
	deliveryGrace = 10 * time.Second
)

// upgraded is two connections that have become one.
type upgraded struct {
	client   clientConn
	app      io.ReadWriteCloser
	up, down *lane         // to the app and to the client
	done     chan struct{} // closed when nothing comes any more

	closing sync.Once
	cut     *time.Timer // set by closing
}

func newUpgraded(client clientConn, app io.ReadWriteCloser, webSocket bool) *upgraded {
	return &upgraded{
		client: client, app: app,
		up: newLane(app, webSocket), down: newLane(client, webSocket),
		done: make(chan struct{}),
	}
}

// run copies both ways. The end of one direction is passed on and leaves the
// other; anything else ends both. It returns an error if it was the app's end
// that broke, before a Close frame.
func (u *upgraded) run() (broken error) {
	var up sync.WaitGroup
	up.Go(func() { _ = u.pass(u.up, u.client) })
	broken = u.pass(u.down, u.app)
	up.Wait()
	u.deliver()
	u.close()
	u.cut.Stop()
	close(u.done)
	if u.down.closed() {
		return nil
	}
	return broken
}

func (u *upgraded) pass(l *lane, src io.Reader) error {
	err := copyStream(l, src)
	l.end()
	if err != nil {
		u.close()
		return err
	}
	if closeWrite(l.dst) != nil {
		u.close() // the direction cannot be ended alone
	}
	return nil
}

// deliver waits until the app has what was sent to it: closing its end would
// throw away what is on its way. If it has been closed there is nothing to wait for.
func (u *upgraded) deliver() {
	app, ok := u.app.(interface{ Wait() error })
	if !ok {
		return
	}
	limit := time.AfterFunc(deliveryGrace, u.close)
	defer limit.Stop()
	_ = app.Wait()
}

// close ends both directions. It does not wait for that.
func (u *upgraded) close() {
	u.closing.Do(func() {
		u.cut = time.AfterFunc(upgradeGrace, u.client.abort)
		_ = u.app.Close()
		_ = u.client.Close()
	})
}

// part closes the connection from outside. The peers of a WebSocket are told,
// the client by the word given, and have some time to say goodbye. Who does not
// let a frame end in that time gets no Close frame, and sees a connection
// that broke: it did.
func (u *upgraded) part(word []byte, patience time.Duration) {
	var words sync.WaitGroup
	defer words.Wait()
	defer u.close()
	if u.down.frames == nil {
		return
	}
	over := make(chan struct{})
	limit := time.AfterFunc(patience, func() {
		u.close()
		close(over)
	})
	defer limit.Stop()
	// Both words are known before one is said: who hears the first answers it,
	// and that answer is not what the other is to hear.
	u.down.word.Store(&word)
	u.up.word.Store(&clientLeaves)
	words.Go(u.down.say)
	words.Go(u.up.say)
	for _, heard := range []<-chan struct{}{u.down.heard, u.up.heard} {
		select {
		case <-heard:
		case <-u.done:
			return
		case <-over:
			return
		}
	}
	// Both have said goodbye. Who has heard it may still be reading.
	if closeWrite(u.app) != nil || closeWrite(u.client) != nil {
		return
	}
	select {
	case <-u.done:
	case <-over:
	}
}

// lane is one direction of an upgraded connection.
type lane struct {
	dst   io.Writer
	heard chan struct{} // closed when the source has said goodbye, or ended

	// word is a Close frame that is to follow the frame under way. It is not
	// guarded, for it is also set while a write waits for its reader.
	word atomic.Pointer[[]byte]

	writing sync.Mutex // held while writing to dst; guards the following
	frames  *frames    // nil: not a WebSocket
	said    bool       // the word has been said: nothing may follow it
	silent  bool       // heard is closed
}

func newLane(dst io.Writer, webSocket bool) *lane {
	l := &lane{dst: dst, heard: make(chan struct{})}
	if webSocket {
		l.frames = new(frames)
	}
	return l
}

// Write passes on what the source sends.
func (l *lane) Write(p []byte) (int, error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.frames == nil {
		return l.dst.Write(p)
	}
	for written := 0; written < len(p); {
		if err := l.utter(); err != nil {
			return written, err
		}
		n := 0
		// Of what comes before the word, nothing needs to be told apart.
		for written+n < len(p) && (n == 0 || l.word.Load() == nil || l.said) {
			n += l.frames.next(p[written+n:])
		}
		if !l.said {
			if _, err := l.dst.Write(p[written : written+n]); err != nil {
				return written, err
			}
		}
		written += n
		if l.frames.ended {
			l.hear()
		}
	}
	return len(p), l.utter()
}

// say closes the direction with the word, now or after the frame under way,
// unless the source has done so itself.
func (l *lane) say() {
	l.writing.Lock()
	defer l.writing.Unlock()
	_ = l.utter() // the source's next write meets the same error
}

// utter says the word if there is one and it may be said.
func (l *lane) utter() error {
	word := l.word.Load()
	if word == nil || l.said || !l.frames.between() || l.frames.ended {
		return nil
	}
	l.said = true
	_, err := l.dst.Write(*word)
	return err
}

// closed reports whether the destination has got a Close frame.
func (l *lane) closed() bool {
	l.writing.Lock()
	defer l.writing.Unlock()
	return l.said || l.frames != nil && l.frames.ended
}

// end notes that nothing more comes from the source.
func (l *lane) end() {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.hear()
}

func (l *lane) hear() {
	if !l.silent {
		l.silent = true
		close(l.heard)
	}
}
