package ccid

import "slices"

// vendorClass are readers that speak CCID on an interface of the vendor class
// (FF): vendor, product. They came before the specification was final, or have
// more slots than it knew. Those of the smart-card class need no list.
var vendorClass = [][2]uint16{
	{0x04E6, 0x5111}, // SCM SCR331-DI
	{0x04E6, 0x5120}, // SCM SCR331-DI
	{0x04E6, 0x5121}, // SCM SDI010
	{0x04E6, 0x5292}, // SCM SCL01x
	{0x04E6, 0xE003}, // SCM SPR532
}

func speaksCCID(vendor, product uint16) bool {
	return slices.Contains(vendorClass, [2]uint16{vendor, product})
}
