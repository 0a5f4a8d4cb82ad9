package cardhost

import "github.com/cardbridge/cardbridge/applet-sim"

// SetImage has the host make its cards from other images, with the same keys.
func (h *Host) SetImage(image func(n int) *appletsim.Image) { h.image = image }
