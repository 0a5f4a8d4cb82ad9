/* The peer of the benchmark: SCardTransmit in a loop, and nothing else.
 *
 * Started with a reader's name. For each line "size count" on stdin it sends a
 * command of that size that many times and writes the nanoseconds of each
 * exchange to stdout, as native 64-bit integers. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <winscard.h>

static uint64_t now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what, LONG rv) {
	fprintf(stderr, "%s: 0x%08lX\n", what, (unsigned long)rv);
	exit(1);
}

int main(int argc, char **argv) {
	static BYTE command[65536], answer[MAX_BUFFER_SIZE_EXTENDED];
	static uint64_t took[65536];
	SCARDCONTEXT context;
	SCARDHANDLE card;
	DWORD protocol;
	unsigned size, count;
	LONG rv;

	if (argc != 2)
		die("usage: transmit READER", 0);
	if ((rv = SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &context)) != SCARD_S_SUCCESS)
		die("establish", rv);
	if ((rv = SCardConnect(context, argv[1], SCARD_SHARE_SHARED, SCARD_PROTOCOL_T1, &card, &protocol)) != SCARD_S_SUCCESS)
		die("connect", rv);
	while (scanf("%u %u", &size, &count) == 2) {
		if (size < 5 || size > 260 || count > sizeof took / sizeof took[0])
			die("size or count", 0);
		memset(command, 0, size);
		command[1] = 0xA4;
		command[4] = (BYTE)(size - 5);
		for (unsigned i = 0; i < count; i++) {
			DWORD n = sizeof answer;
			uint64_t start = now();
			rv = SCardTransmit(card, SCARD_PCI_T1, command, size, NULL, answer, &n);
			took[i] = now() - start;
			if (rv != SCARD_S_SUCCESS)
				die("transmit", rv);
			if (n != size - 3) /* the data and 9000 */
				die("answer", (LONG)n);
		}
		fwrite(took, sizeof took[0], count, stdout);
		fflush(stdout);
	}
	SCardDisconnect(card, SCARD_LEAVE_CARD);
	SCardReleaseContext(context);
	return 0;
}
