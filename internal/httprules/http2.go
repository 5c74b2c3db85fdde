package httprules

import (
	"fmt"
	"strconv"
)

// The types of HTTP/2 frames (RFC 9113, section 6) and their flags.
const (
	FrameData         = 0x0
	FrameHeaders      = 0x1
	FrameRSTStream    = 0x3
	FrameSettings     = 0x4
	FramePing         = 0x6
	FrameGoAway       = 0x7
	FrameWindowUpdate = 0x8
	FrameContinuation = 0x9

	FlagEndStream = 0x1 // of a DATA frame
	FlagAck       = 0x1 // of a PING frame
)

// ErrCode is why a stream has ended (RFC 9113, section 7).
type ErrCode uint32

// RefusedStream is the code of a request that was not processed.
const RefusedStream ErrCode = 0x7

var errCodes = [...]string{
	"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED", "FRAME_SIZE_ERROR",
	"REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
}

func (c ErrCode) String() string {
	if int64(c) < int64(len(errCodes)) {
		return errCodes[c]
	}
	return "unknown error code 0x" + strconv.FormatUint(uint64(c), 16)
}

// StreamError is an error of one stream. Package net/http has such errors and
// does not export their type, but errors.As fills in any type that has the same
// fields under the same names.
type StreamError struct {
	StreamID uint32
	Code     ErrCode
	Cause    error // may be nil
}

func (e StreamError) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("stream error: stream ID %d; %v; %v", e.StreamID, e.Code, e.Cause)
	}
	return fmt.Sprintf("stream error: stream ID %d; %v", e.StreamID, e.Code)
}
