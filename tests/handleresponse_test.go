package tests

import (
	"net/http"
	"testing"
)

// The pattern of single-page apps: what the app does not have is answered with
// its front page. The first request of such a pair gives its slot back before
// the second one asks for one, so that a pool at its limit does not stand still.
func TestHandleResponseDispatchesAgain(t *testing.T) {
	settings := []string{"max_concurrent 2", "max_instances 1", "queue_timeout 20s", local("command " + demoBin)}
	again := dispatch(settings...)
	r := startCaddy(t, dispatch(append(settings, "@missing status 404\nhandle_response @missing {\nrewrite * /delay?delay=20\n"+again+"\n}")...))
	statuses := make(chan int)
	const clients, each = 6, 5
	for range clients {
		go func() {
			for range each {
				resp, _, err := r.do(http.MethodGet, "/not-there", nil)
				if err != nil {
					t.Error(err)
					statuses <- 0
					continue
				}
				statuses <- resp.StatusCode
			}
		}()
	}
	for range clients * each {
		if status := <-statuses; status != http.StatusOK {
			t.Errorf("status %d", status)
		}
	}
	r.await("the slots to be free", func() bool { return r.pool().InFlight == 0 })
}
