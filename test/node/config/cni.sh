#!{{.Busybox}} sh
# A pod that is not on the host's network gets a namespace with nothing but a
# loopback device, which carries the pod's address too. The same script serves
# as the "loopback" plugin that containerd asks for first.
set -eu
busybox={{.Busybox}}

version() { $busybox sed -n 's/.*"cniVersion" *: *"\([^"]*\)".*/\1/p' | $busybox head -n 1; }

inside() { $busybox nsenter --net="$CNI_NETNS" $busybox ip "$@"; }

add() {
	inside link set lo up
	address=127.0.0.1/8
	if [ "$CNI_IFNAME" != lo ]; then
		id=$(printf '%s' "$CNI_CONTAINERID" | $busybox md5sum)
		address=198.18.$((0x${id:0:2})).$((1 + 0x${id:2:2} % 254))/32
		inside addr add "$address" dev lo
	fi
	printf '{"cniVersion":"%s","interfaces":[{"name":"%s","sandbox":"%s"}],' "$1" "$CNI_IFNAME" "$CNI_NETNS"
	printf '"ips":[{"version":"4","interface":0,"address":"%s"}]}\n' "$address"
}

case $CNI_COMMAND in
ADD) add "$(version)" ;;
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["0.3.1","0.4.0","1.0.0"]}' ;;
esac
