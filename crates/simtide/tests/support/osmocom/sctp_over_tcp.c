/*
 * Lets a program that speaks SCTP run where the kernel has none: preloaded, every SCTP association becomes a TCP
 * connection on which each message follows its length (4 octets, big endian). One stream, order kept, no notifications.
 * Only for tests on loopback.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <linux/sctp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

static int has_sctp_level(int level) { return level == IPPROTO_SCTP; }

int socket(int domain, int type, int protocol)
{
	static int (*real)(int, int, int);
	if (!real)
		real = (int (*)(int, int, int))dlsym(RTLD_NEXT, "socket");
	if (protocol != IPPROTO_SCTP)
		return real(domain, type, protocol);
	return real(domain, SOCK_STREAM | (type & (SOCK_NONBLOCK | SOCK_CLOEXEC)), IPPROTO_TCP);
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
	static int (*real)(int, int, int, const void *, socklen_t);
	if (!real)
		real = (int (*)(int, int, int, const void *, socklen_t))dlsym(RTLD_NEXT, "setsockopt");
	return has_sctp_level(level) ? 0 : real(fd, level, name, value, size);
}

int getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
	static int (*real)(int, int, int, void *, socklen_t *);
	if (!real)
		real = (int (*)(int, int, int, void *, socklen_t *))dlsym(RTLD_NEXT, "getsockopt");
	if (!has_sctp_level(level))
		return real(fd, level, name, value, size);
	memset(value, 0, *size);
	return 0;
}

static socklen_t size_of(const struct sockaddr *address)
{
	return address->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
}

int sctp_bindx(int fd, struct sockaddr *addresses, int count, int flags)
{
	(void)flags;
	return count > 0 ? bind(fd, addresses, size_of(addresses)) : 0;
}

int sctp_connectx(int fd, struct sockaddr *addresses, int count, sctp_assoc_t *id)
{
	(void)id;
	return count > 0 ? connect(fd, addresses, size_of(addresses)) : 0;
}

int sctp_send(int fd, const void *message, size_t size, const struct sctp_sndrcvinfo *info, int flags)
{
	uint32_t length = htonl((uint32_t)size);
	struct iovec parts[2] = {{&length, sizeof(length)}, {(void *)message, size}};
	struct msghdr header = {.msg_iov = parts, .msg_iovlen = 2};
	(void)info;
	ssize_t sent = sendmsg(fd, &header, flags | MSG_NOSIGNAL);
	return sent < 0 ? -1 : (int)size;
}

int sctp_recvmsg(int fd, void *message, size_t size, struct sockaddr *from, socklen_t *from_size,
		 struct sctp_sndrcvinfo *info, int *flags)
{
	uint32_t length;
	(void)from;
	(void)from_size;
	ssize_t seen = recv(fd, &length, sizeof(length), MSG_PEEK);
	if (seen <= 0)
		return (int)seen;
	if (seen < (ssize_t)sizeof(length)) {
		errno = EAGAIN;
		return -1;
	}
	length = ntohl(length);
	if (length > size) {
		errno = EMSGSIZE;
		return -1;
	}
	uint32_t skipped;
	struct iovec parts[2] = {{&skipped, sizeof(skipped)}, {message, length}};
	struct msghdr header = {.msg_iov = parts, .msg_iovlen = 2};
	seen = recvmsg(fd, &header, MSG_PEEK);
	if (seen < (ssize_t)(sizeof(skipped) + length)) {
		errno = EAGAIN;
		return -1;
	}
	if (recvmsg(fd, &header, 0) < 0)
		return -1;
	if (info)
		memset(info, 0, sizeof(*info));
	if (flags)
		*flags = MSG_EOR;
	return (int)length;
}
