package demoapp

import (
	"bytes"
	"image"
	"image/color"
	"image/jpeg"
	"math"
	"sync"
)

// ImageSize is the length of /public/silly-test-image.jpg in bytes. Published
// measurements of other systems use an image of this length.
const ImageSize = 168_161

const (
	imageWidth  = 800
	imageHeight = 600

	// commentOverhead is the length of a COM segment without its text: the
	// marker FF FE and a length that counts itself (ITU-T T.81, B.2.4.5).
	commentOverhead = 4
	maxComment      = math.MaxUint16 - 2
)

// sillyImage returns the image, always the same one. It is made on first use,
// because a test or an environment that never serves it should not wait.
var sillyImage = sync.OnceValue(func() []byte {
	picture := draw()
	// The encoder may change from one Go release to the next, so the quality
	// is searched; the rest of the length is filled with comments.
	for quality := 85; ; quality -= 5 {
		var buf bytes.Buffer
		if err := jpeg.Encode(&buf, picture, &jpeg.Options{Quality: quality}); err != nil {
			panic(err) // a bytes.Buffer does not fail, and the picture is small
		}
		if padded := pad(buf.Bytes(), ImageSize); padded != nil {
			return padded
		}
	}
})

// pad makes a JPEG file exactly size bytes long with comments behind the
// start-of-image marker, which every decoder skips. It returns nil when the
// file is too long for that.
func pad(file []byte, size int) []byte {
	const startOfImage = 2
	out := append(make([]byte, 0, size), file[:startOfImage]...)
	for missing := size - len(file); missing > 0; {
		if missing < commentOverhead {
			return nil
		}
		n := min(missing, commentOverhead+maxComment)
		if rest := missing - n; rest > 0 && rest < commentOverhead {
			n -= commentOverhead // leave room for the last comment
		}
		out = append(out, 0xff, 0xfe, byte((n-2)>>8), byte(n-2))
		for i := range n - commentOverhead {
			out = append(out, "silly "[i%len("silly ")])
		}
		missing -= n
	}
	out = append(out, file[startOfImage:]...)
	if len(out) != size {
		return nil
	}
	return out
}

// draw paints rings and stripes, with some noise so that the file has the
// entropy of a photograph and no proxy or disk can make it small.
func draw() image.Image {
	img := image.NewRGBA(image.Rect(0, 0, imageWidth, imageHeight))
	noise := uint32(1)
	for y := range imageHeight {
		for x := range imageWidth {
			noise = noise*1664525 + 1013904223 // a linear congruential generator: the same on every machine
			dx, dy := float64(x-imageWidth/2), float64(y-imageHeight/2)
			ring := math.Sin(math.Hypot(dx, dy) / 9)
			stripe := math.Cos(float64(x+2*y) / 23)
			grain := float64(noise>>24)/8 - 16
			img.SetRGBA(x, y, color.RGBA{
				R: level(150 + 70*ring + grain),
				G: level(120 + 60*stripe + grain),
				B: level(170 - 60*ring + 25*stripe + grain),
				A: 255,
			})
		}
	}
	return img
}

func level(v float64) uint8 {
	return uint8(min(max(v, 0), 255))
}
