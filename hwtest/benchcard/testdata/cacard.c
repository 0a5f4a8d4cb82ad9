/* The peer of the benchmark: libcacard's CAC card as a card of vpcd.
 *
 * Started with vpcd's port, an NSS database and the nicknames of three
 * certificates in it. It ends with its input or the connection. The transport is
 * as that of applet-sim/vpcd: one write for each message, TCP_NODELAY, and
 * TCP_QUICKACK around each read. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <libcacard.h>

static void die(const char *what) {
	fprintf(stderr, "cacard: %s\n", what);
	exit(1);
}

static int sock;

static void quick(void) {
	int on = 1;
	setsockopt(sock, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
}

static void all(unsigned char *b, size_t n) {
	while (n > 0) {
		quick();
		ssize_t got = read(sock, b, n);
		quick();
		if (got <= 0)
			exit(0);
		b += got;
		n -= (size_t)got;
	}
}

static void answer(unsigned char *b, int n) { /* b has two bytes before it */
	b[-2] = (unsigned char)(n >> 8);
	b[-1] = (unsigned char)n;
	if (write(sock, b - 2, (size_t)n + 2) != n + 2)
		exit(0);
}

int main(int argc, char **argv) {
	static unsigned char in[65536], out[2 + 65536];
	char options[1024];
	if (argc != 6)
		die("usage: cacard PORT DB CERT CERT CERT");
	snprintf(options, sizeof options, "db=\"sql:%s\" use_hw=no soft=(,bench,CAC,,%s,%s,%s)", argv[2], argv[3], argv[4], argv[5]);
	if (vcard_emul_init(vcard_emul_options(options)) != VCARD_EMUL_OK)
		die("vcard_emul_init");
	VReader *reader = vreader_get_reader_by_name("bench");
	if (reader == NULL || vreader_card_is_present(reader) != VREADER_OK)
		die("no card");
	static unsigned char atr[2 + 256];
	int atr_length = sizeof atr - 2;
	if (vreader_power_on(reader, atr + 2, &atr_length) != VREADER_OK)
		die("vreader_power_on");
	sock = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int on = 1;
	setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	if (connect(sock, (struct sockaddr *)&to, sizeof to) != 0)
		die("connect");
	for (;;) {
		unsigned char length[2];
		all(length, 2);
		int n = length[0] << 8 | length[1], m = 65536;
		all(in, (size_t)n);
		if (n > 1) {
			if (vreader_xfr_bytes(reader, in, n, out + 2, &m) != VREADER_OK)
				die("vreader_xfr_bytes");
			answer(out + 2, m);
			continue;
		}
		switch (n == 1 ? in[0] : 0xFF) {
		case 0:
			vreader_power_off(reader);
			break;
		case 1:
		case 2:
			m = sizeof atr - 2;
			if (vreader_power_on(reader, atr + 2, &m) != VREADER_OK)
				die("vreader_power_on");
			atr_length = m;
			break;
		case 4: /* asked for all the time: no power-on */
			answer(atr + 2, atr_length);
			break;
		}
	}
}
