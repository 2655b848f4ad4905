#!/bin/sh
# Installs Leasehold's agent on a Debian host. The manager runs it as root over SSH:
#   check    says in its last line why the host cannot be installed (exit code 1); changes nothing
#   install  Debian packages, a virtual environment, the unit; lines that begin with » are shown to people
#   enroll   gets the agent its certificate, and starts it
#   remove   takes back what the others did; says in its last line what it left
# Each may be run again at any time. Another program that knows these four words may stand in the setting agent_installer.
set -eu
FOLDER=/var/lib/leasehold-install
HOME_OF_AGENT=/opt/leasehold
STATE=/var/lib/leasehold-agent
UNIT=/etc/systemd/system/leasehold-agent.service
UPGRADE=/usr/local/lib/leasehold/upgrade
RESTART=/usr/local/lib/leasehold/restart
KEYS=/root/.ssh/authorized_keys
KEY_IS=leasehold-restarts-its-agent  # the comment of the manager's key
OURS="$UNIT $UPGRADE $RESTART $HOME_OF_AGENT $STATE"
MADE=$FOLDER.made  # is there while what is ours came by this program, and no agent is enrolled by it yet
PACKAGES="python3 python3-venv python3-dev gcc libc6-dev pkg-config libvirt-dev ca-certificates e2fsprogs iproute2 util-linux
    qemu-system-x86 qemu-utils libvirt-daemon libvirt-daemon-driver-qemu libvirt-daemon-system libvirt-clients"

step() { echo "» $*"; }
sorry() { echo "$*"; exit 1; }
forget_key() { [ ! -e $KEYS ] || sed -i "/ $KEY_IS\$/d" $KEYS; }

check() {
    [ "$(id -u)" = 0 ] || sorry "This user is not root."
    . /etc/os-release
    command -v apt-get > /dev/null || sorry "This is ${PRETTY_NAME:-no Debian}: only Debian and what descends from it is installed over SSH."
    [ -d /run/systemd/system ] || sorry "This host does not run systemd, which is to start the agent."
    [ ! -e $STATE/cert.pem ] || sorry "An agent is enrolled on this host already: use “Reinstall” for the host it is, or remove $STATE."
    for thing in $OURS; do
        # "remove" takes them away: so they must not be somebody else's
        [ -e $MADE ] || [ ! -e "$thing" ] || sorry "There is $thing on this host already: remove it first."
    done
    [ "$(df -Pk /opt | awk 'NR == 2 { print int($4 / 1024) }')" -ge 2048 ] || sorry "There are less than 2 GiB free on /opt."
    [ "$(df -Pk /var | awk 'NR == 2 { print int($4 / 1024) }')" -ge 2048 ] || sorry "There are less than 2 GiB free on /var."
    if [ -e /dev/kvm ]; then echo "$PRETTY_NAME with KVM"; else echo "$PRETTY_NAME without KVM: its VMs are emulated"; fi
}

install() {
    . $FOLDER/settings
    : > $MADE
    missing=
    for package in $PACKAGES; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2> /dev/null)" = installed ] || missing="$missing $package"
    done
    if [ "$missing" ]; then
        step "Fetches Debian's package lists"
        apt-get update -q || sorry "Debian's package lists could not be fetched."
        step "Installs Debian packages"
        # shellcheck disable=SC2086
        DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing || sorry "Debian's packages could not be installed."
    fi
    step "Makes the Python environment"
    [ -x $HOME_OF_AGENT/bin/python ] || python3 -m venv $HOME_OF_AGENT
    if [ -e $FOLDER/requirements.txt ]; then
        step "Installs the Python packages that the agent needs"
        $HOME_OF_AGENT/bin/pip install -q --require-hashes -r $FOLDER/requirements.txt || sorry "Python's packages could not be installed."
        $HOME_OF_AGENT/bin/pip install -q --no-deps --force-reinstall "$FOLDER/$WHEEL" || sorry "Leasehold could not be installed."
    else
        step "Installs Leasehold and the Python packages that it needs"
        $HOME_OF_AGENT/bin/pip install -q "$FOLDER/$WHEEL[agent]" || sorry "Leasehold could not be installed."
    fi
    step "Writes the agent's unit"
    mkdir -p "$(dirname $UPGRADE)"
    printf '#!/bin/sh\nexec %s/bin/pip install --no-index --no-deps --force-reinstall "$1"\n' $HOME_OF_AGENT > $UPGRADE
    chmod 755 $UPGRADE
    cat > $UNIT << END
[Unit]
Description=Leasehold's agent
After=network-online.target libvirtd.service
Wants=network-online.target

[Service]
ExecStart=$HOME_OF_AGENT/bin/leasehold-agent run
Restart=always
RestartSec=2
KillMode=process

[Install]
WantedBy=multi-user.target
END
    step "Lets the manager restart the agent"
    # what hangs is not asked to end: an agent that is killed loses nothing
    printf '#!/bin/sh\nsystemctl kill -s KILL --kill-who=main %s 2> /dev/null\nexec systemctl restart %s\n' \
        leasehold-agent.service leasehold-agent.service > $RESTART
    chmod 755 $RESTART
    [ -d "${KEYS%/*}" ] || mkdir -m 700 "${KEYS%/*}"
    forget_key
    [ ! -s $KEYS ] || [ -z "$(tail -c 1 $KEYS)" ] || echo >> $KEYS
    echo "restrict,command=\"$RESTART\" $RESTART_KEY $KEY_IS" >> $KEYS
    chmod 600 $KEYS
}

enroll() {
    . $FOLDER/settings
    step "Waits for its certificate"
    set --
    for folder in $STORAGE; do mkdir -p "$folder"; set -- "$@" --storage-root "$folder"; done
    if [ ! -e $STATE/cert.pem ] || [ ! -e $STATE/agent.toml ]; then
        $HOME_OF_AGENT/bin/leasehold-agent enroll --manager "$MANAGER" --ca-file $FOLDER/ca.pem --token-file $FOLDER/token \
            --name "$NAME" --address "$ADDRESS" --upgrade $UPGRADE "$@"
    fi
    step "Starts the agent"
    systemctl daemon-reload
    systemctl enable -q --now leasehold-agent.service
    rm -f $MADE
}

remove() {
    for job in install enroll; do
        pid=$(cat $FOLDER/$job.pid 2> /dev/null) || continue
        grep -q $FOLDER "/proc/$pid/cmdline" 2> /dev/null || continue
        # apt is let end: a package half installed is worse than one too many
        while pgrep -g "$pid" -x 'apt-get|dpkg' > /dev/null; do sleep 1; done
        kill -- "-$pid" 2> /dev/null || true
    done
    if [ -e $MADE ]; then
        systemctl disable -q --now leasehold-agent.service 2> /dev/null || true
        # shellcheck disable=SC2086
        rm -rf $OURS $MADE
        rmdir "${UPGRADE%/*}" 2> /dev/null || true
        forget_key
        systemctl daemon-reload 2> /dev/null || true
    fi
    rm -rf $FOLDER
    echo "The host is as it was before, but for Debian packages that were installed."
}

case "${1:-}" in
    check | install | enroll | remove) "$1" ;;
    *) sorry "usage: $0 check|install|enroll|remove" ;;
esac
