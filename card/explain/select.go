package explain

import (
	"fmt"

	"github.com/cardbridge/cardbridge/apdu"
)

// selectFile is SELECT (ISO/IEC 7816-4 §11.2.2, TS 102 221 §11.1.1).
func (x *Explainer) selectFile(c *channel) {
	cmd := c.now.cmd
	if cmd.P1 == 0x04 {
		x.selectApplication(c)
		return
	}
	c.now.answer = (*Explainer).selected
	f := c.dir
	by := ""
	switch {
	case len(cmd.Data)%2 != 0:
		f = nil
	case cmd.P1 == 0x08:
		f, by = mf, " by path"
	case cmd.P1 == 0x09:
		by = " by path from here"
	case cmd.P1 == 0x03:
		by = " the DF above"
		if f != nil {
			f = f.parent
		}
	case cmd.P1 > 0x03:
		x.add("", "P1", fmt.Sprintf("%02X", cmd.P1))
	case len(cmd.Data) == 0:
		f = mf
	}
	for b := cmd.Data; len(b) >= 2; b = b[2:] {
		f = resolve(c, f, uint16(b[0])<<8|uint16(b[1]))
		if len(cmd.Data) > 2*maxDepth {
			f = nil
			break
		}
	}
	if f == nil {
		x.out.Title = "SELECT" + by
		x.anyData(cmd.Data)
		c.now.done = func(_ *Explainer, c *channel) { c.dir, c.ef = nil, nil }
	} else {
		x.out.Title = "SELECT " + f.what() + by
		c.now.done = func(_ *Explainer, c *channel) { c.enter(f) }
	}
	c.now.name = x.out.Title
}

// enter makes a file the current one.
func (c *channel) enter(f *file) {
	if f.dir {
		c.dir, c.ef = f, nil
		if f == usim || f == isim {
			if c.app == nil || c.app.dir != f {
				c.app = &application{name: f.name, dir: f}
			}
		}
		return
	}
	c.ef = f
	if f.parent != nil {
		c.dir = f.parent
	}
}

func (x *Explainer) selectApplication(c *channel) {
	cmd := c.now.cmd
	app := findApplication(cmd.Data)
	if app == nil {
		app = findByPart(cmd.Data)
	}
	x.out.Title = "SELECT " + hexa(cmd.Data) + " by AID"
	if len(cmd.Data) == 0 {
		x.out.Title = "SELECT the default application"
	}
	if app == nil {
		app = anApplication
	} else {
		x.out.Title = "SELECT " + app.name + " by AID"
		x.add("", "AID", hexa(cmd.Data))
	}
	if cmd.P2&0x03 == 0x02 {
		x.add("", "occurrence", "next")
	}
	c.now.name = x.out.Title
	c.now.done = func(_ *Explainer, c *channel) {
		c.app, c.dir, c.ef = app, app.dir, nil
		c.es10 = nil
	}
	c.now.answer = (*Explainer).selected
}

// selected explains what SELECT and STATUS answer.
func (x *Explainer) selected(c *channel, data []byte, _ apdu.StatusWord) {
	if o, _, ok := readObject(data); ok && c.app == anApplication { // the card says which it is
		if app := findApplication(find(o.value, 0x84)); app != nil {
			c.app, c.dir = app, app.dir
		}
	}
	switch {
	case len(data) == 0:
	case c.now.class.gsm:
		x.gsmFile(data)
	case c.app != nil && c.app.ours && find(data, 0x6F) != nil:
		x.tree(data, managementFCI, 0)
	default:
		x.tree(data, fileControl, 0)
	}
}

// gsmFile is TS 51.011 §9.2.1.
func (x *Explainer) gsmFile(b []byte) {
	if len(b) < 14 {
		x.add("", "data", hexa(b))
		return
	}
	kinds := map[byte]string{1: "MF", 2: "DF", 4: "EF"}
	kind := kinds[b[6]]
	x.add("", "file", fmt.Sprintf("%s %02X%02X", kind, b[4], b[5]))
	if kind == "EF" {
		x.add("", "size", fmt.Sprintf("%d bytes", int(b[2])<<8|int(b[3])))
		x.add("", "structure", coded(map[byte]string{0: "transparent", 1: "linear fixed", 3: "cyclic"})(b[13:14]))
		if len(b) > 14 && b[13] != 0 {
			x.add("", "record length", fmt.Sprintf("%d bytes", b[14]))
		}
	}
}

// uiccStatus is STATUS (TS 102 221 §11.1.2).
func (x *Explainer) uiccStatus(c *channel) {
	switch c.now.cmd.P1 {
	case 0x01:
		x.out.Title += ": the application is initialised"
	case 0x02:
		x.out.Title += ": the terminal ends the application"
	}
	c.now.answer = (*Explainer).selected
}

// file is the EF that a command with a short identifier, or none, is for.
func (x *Explainer) file(c *channel, sfi byte) *file {
	if sfi == 0 {
		return c.ef
	}
	for _, d := range [...]*file{c.dir, usim} {
		if d == nil {
			continue
		}
		if f := d.short(sfi); f != nil {
			return f
		}
		if known(d) {
			break
		}
	}
	return &file{name: fmt.Sprintf("EF with short identifier %02X", sfi), parent: c.dir}
}

// on makes f, which a short identifier named, the current file once the command
// is accepted, and names it in the title.
func (x *Explainer) on(c *channel, f *file) {
	if f == nil {
		return
	}
	x.out.Title += " " + f.what()
	c.now.name = x.out.Title
	c.now.done = func(_ *Explainer, c *channel) { c.ef = f }
}

// binary is where READ and UPDATE BINARY begin.
func (x *Explainer) binary(c *channel) (f *file, offset int) {
	cmd := c.now.cmd
	sfi, offset := byte(0), int(cmd.P1)<<8|int(cmd.P2)
	if cmd.P1&0x80 != 0 && !c.now.class.gsm {
		sfi, offset = cmd.P1&0x1F, int(cmd.P2)
	}
	f = x.file(c, sfi)
	x.on(c, f)
	if offset > 0 {
		x.add("", "offset", fmt.Sprint(offset))
	}
	return f, offset
}

func (x *Explainer) readBinary(c *channel) {
	f, offset := x.binary(c)
	if c.now.cmd.Ne > 0 {
		x.add("", "Le", fmt.Sprintf("%d bytes", c.now.cmd.Ne))
	}
	c.now.answer = func(x *Explainer, _ *channel, data []byte, _ apdu.StatusWord) { x.content(f, offset, data) }
}

func (x *Explainer) updateBinary(c *channel) {
	f, offset := x.binary(c)
	x.content(f, offset, c.now.cmd.Data)
}

// record is which record a command is for.
func (x *Explainer) record(c *channel) *file {
	cmd := c.now.cmd
	sfi := cmd.P2 >> 3
	if c.now.class.gsm {
		sfi = 0
	}
	f := x.file(c, sfi)
	x.on(c, f)
	switch cmd.P2 & 0x07 {
	case 2:
		x.add("", "record", "next")
	case 3:
		x.add("", "record", "previous")
	case 4:
		if cmd.P1 == 0 {
			x.add("", "record", "current")
			break
		}
		x.add("", "record", fmt.Sprint(cmd.P1))
	}
	return f
}

func (x *Explainer) readRecord(c *channel) {
	f := x.record(c)
	c.now.answer = func(x *Explainer, _ *channel, data []byte, _ apdu.StatusWord) { x.content(f, 0, data) }
}

func (x *Explainer) updateRecord(c *channel) {
	f := x.record(c)
	x.content(f, 0, c.now.cmd.Data)
}

func (x *Explainer) searchRecord(c *channel) {
	f := x.file(c, c.now.cmd.P2>>3)
	x.on(c, f)
	x.add("", "pattern", hexa(c.now.cmd.Data))
	c.now.answer = func(x *Explainer, _ *channel, data []byte, _ apdu.StatusWord) {
		if len(data) > 0 {
			x.add("", "records", hexa(data))
		}
	}
}

// fileByID is a command whose data is a file's identifier or path, or nothing.
func (x *Explainer) fileByID(c *channel) {
	f := c.ef
	for b := c.now.cmd.Data; len(b) >= 2 && len(b) <= 2*maxDepth; b = b[2:] {
		f = resolve(c, c.dir, uint16(b[0])<<8|uint16(b[1]))
	}
	if f != nil {
		x.out.Title += " " + f.what()
	}
}

// fcpCommand is CREATE and RESIZE FILE (TS 102 222), whose data is an FCP.
func (x *Explainer) fcpCommand(c *channel) { x.tree(c.now.cmd.Data, fileControl, 0) }
