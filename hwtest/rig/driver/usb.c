/* A reader driver for pcscd that puts vpcd's virtual reader on a USB bus that is
 * not there: it says of itself what the file beside it (this file's name, then
 * ".usb") says, "present slots bus address", and leaves the card to vpcd (this
 * file's name, then ".vpcd").
 *
 * It has the features of PC/SC part 10 that a CCID reader without keypad has; its
 * escape command gives its data back. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <ifdhandler.h>
#include <reader.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define TLV_PROPERTIES (SCARD_CTL_CODE(0x0A00) + FEATURE_GET_TLV_PROPERTIES)
#define ESCAPE SCARD_CTL_CODE(1)

static struct {
	RESPONSECODE (*create)(DWORD, LPSTR);
	RESPONSECODE (*close)(DWORD);
	RESPONSECODE (*get)(DWORD, DWORD, PDWORD, PUCHAR);
	RESPONSECODE (*set)(DWORD, DWORD, DWORD, PUCHAR);
	RESPONSECODE (*protocol)(DWORD, DWORD, UCHAR, UCHAR, UCHAR, UCHAR);
	RESPONSECODE (*power)(DWORD, DWORD, PUCHAR, PDWORD);
	RESPONSECODE (*transmit)(DWORD, SCARD_IO_HEADER, PUCHAR, DWORD, PUCHAR, PDWORD, PSCARD_IO_HEADER);
	RESPONSECODE (*presence)(DWORD);
} vpcd;

static int beside(const char *suffix, char *path, size_t size) {
	Dl_info self;
	return dladdr((void *)&vpcd, &self) && snprintf(path, size, "%s.%s", self.dli_fname, suffix) < (int)size;
}

static int load(void) {
	char path[1024];
	void *lib;
	if (vpcd.create)
		return 1;
	if (!beside("vpcd", path, sizeof path) || !(lib = dlopen(path, RTLD_NOW | RTLD_LOCAL)))
		return 0;
	*(void **)&vpcd.close = dlsym(lib, "IFDHCloseChannel");
	*(void **)&vpcd.get = dlsym(lib, "IFDHGetCapabilities");
	*(void **)&vpcd.set = dlsym(lib, "IFDHSetCapabilities");
	*(void **)&vpcd.protocol = dlsym(lib, "IFDHSetProtocolParameters");
	*(void **)&vpcd.power = dlsym(lib, "IFDHPowerICC");
	*(void **)&vpcd.transmit = dlsym(lib, "IFDHTransmitToICC");
	*(void **)&vpcd.presence = dlsym(lib, "IFDHICCPresence");
	*(void **)&vpcd.create = dlsym(lib, "IFDHCreateChannelByName");
	return vpcd.close && vpcd.get && vpcd.set && vpcd.protocol && vpcd.power && vpcd.transmit && vpcd.presence && vpcd.create;
}

struct usb { unsigned present, slots, bus, address; };

static struct usb usb(void) {
	struct usb u = {0};
	char path[1024];
	FILE *f;
	if (beside("usb", path, sizeof path) && (f = fopen(path, "r"))) {
		if (fscanf(f, "%u %u %u %u", &u.present, &u.slots, &u.bus, &u.address) != 4)
			u.present = 0;
		fclose(f);
	}
	return u;
}

RESPONSECODE IFDHCreateChannelByName(DWORD lun, LPSTR name) {
	if (!usb().present || !load())
		return IFD_COMMUNICATION_ERROR;
	return vpcd.create(lun, name);
}

RESPONSECODE IFDHCreateChannel(DWORD lun, DWORD channel) {
	(void)lun, (void)channel;
	return IFD_NOT_SUPPORTED;
}

RESPONSECODE IFDHCloseChannel(DWORD lun) { return vpcd.close(lun); }

static RESPONSECODE give(PDWORD length, PUCHAR value, const void *v, size_t n) {
	if (*length < n)
		return IFD_ERROR_INSUFFICIENT_BUFFER;
	memcpy(value, v, n);
	*length = n;
	return IFD_SUCCESS;
}

RESPONSECODE IFDHGetCapabilities(DWORD lun, DWORD tag, PDWORD length, PUCHAR value) {
	struct usb u = usb();
	uint8_t slots = u.slots;
	uint32_t channel = 0x00200000 | u.bus << 8 | u.address, version = 0x01020003, max = 261;
	switch (tag) {
	case TAG_IFD_SLOTS_NUMBER:
		return give(length, value, &slots, sizeof slots);
	case SCARD_ATTR_CHANNEL_ID:
		return give(length, value, &channel, sizeof channel);
	case SCARD_ATTR_VENDOR_NAME:
		return give(length, value, "Virtual", sizeof "Virtual");
	case SCARD_ATTR_VENDOR_IFD_TYPE:
		return give(length, value, "USB", sizeof "USB");
	case SCARD_ATTR_VENDOR_IFD_VERSION:
		return give(length, value, &version, sizeof version);
	case SCARD_ATTR_VENDOR_IFD_SERIAL_NO:
		return give(length, value, "0042", sizeof "0042");
	case SCARD_ATTR_MAXINPUT:
		return give(length, value, &max, sizeof max);
	}
	return vpcd.get(lun, tag, length, value);
}

RESPONSECODE IFDHSetCapabilities(DWORD lun, DWORD tag, DWORD length, PUCHAR value) {
	return vpcd.set(lun, tag, length, value);
}

RESPONSECODE IFDHSetProtocolParameters(DWORD lun, DWORD protocol, UCHAR flags, UCHAR p1, UCHAR p2, UCHAR p3) {
	return vpcd.protocol(lun, protocol, flags, p1, p2, p3);
}

RESPONSECODE IFDHPowerICC(DWORD lun, DWORD action, PUCHAR atr, PDWORD length) {
	return vpcd.power(lun, action, atr, length);
}

RESPONSECODE IFDHTransmitToICC(DWORD lun, SCARD_IO_HEADER send, PUCHAR tx, DWORD n, PUCHAR rx, PDWORD length, PSCARD_IO_HEADER receive) {
	return vpcd.transmit(lun, send, tx, n, rx, length, receive);
}

RESPONSECODE IFDHControl(DWORD lun, DWORD code, PUCHAR tx, DWORD n, PUCHAR rx, DWORD max, LPDWORD length) {
	(void)lun;
	static const uint8_t features[] = {
		FEATURE_GET_TLV_PROPERTIES, 4, TLV_PROPERTIES >> 24 & 0xFF, TLV_PROPERTIES >> 16 & 0xFF, TLV_PROPERTIES >> 8 & 0xFF, TLV_PROPERTIES & 0xFF,
		FEATURE_CCID_ESC_COMMAND, 4, ESCAPE >> 24 & 0xFF, ESCAPE >> 16 & 0xFF, ESCAPE >> 8 & 0xFF, ESCAPE & 0xFF,
	};
	static const uint8_t properties[] = { /* little-endian */
		9, 1, 0,                         /* bPPDUSupport */
		10, 4, 0x05, 0x01, 0x00, 0x00,   /* dwMaxAPDUDataSize */
		11, 2, 0xE6, 0x08,               /* wIdVendor */
		12, 2, 0x33, 0x44,               /* wIdProduct */
	};
	*length = max;
	switch (code) {
	case CM_IOCTL_GET_FEATURE_REQUEST:
		return give(length, rx, features, sizeof features);
	case TLV_PROPERTIES:
		return give(length, rx, properties, sizeof properties);
	case ESCAPE:
		return give(length, rx, tx, n);
	}
	*length = 0;
	return IFD_ERROR_NOT_SUPPORTED;
}

RESPONSECODE IFDHICCPresence(DWORD lun) {
	return usb().present ? vpcd.presence(lun) : IFD_COMMUNICATION_ERROR;
}
