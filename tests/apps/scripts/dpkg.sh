# needs: dpkg dpkg-deb
# user-must-be-root
# A package is built, installed, upgraded, queried and removed; its scripts run; a conffile is kept.
build() {  # build VERSION
    mkdir -p p/DEBIAN p/usr/share/greeting p/etc
    printf 'Package: greeting-test\nVersion: %s\nArchitecture: all\nMaintainer: a <a@b>\nDescription: a test\n' "$1" >p/DEBIAN/control
    echo /etc/greeting.conf >p/DEBIAN/conffiles; echo "version $1" >p/usr/share/greeting/text; echo setting >p/etc/greeting.conf
    printf '#!/bin/sh\necho "postinst $1"\n' >p/DEBIAN/postinst; printf '#!/bin/sh\necho "prerm $1"\n' >p/DEBIAN/prerm
    chmod 755 p/DEBIAN/postinst p/DEBIAN/prerm; dpkg-deb --root-owner-group -Zgzip -b p "greeting_$1.deb" >/dev/null
}
build 1.0; build 1.1
admin=$PWD/root/var/lib/dpkg; mkdir -p "$admin/info" "$admin/updates" "$admin/triggers"; touch "$admin/status" "$admin/available"
d() { dpkg --root="$PWD/root" --force-not-root --force-script-chrootless --log=/dev/null "$@" 2>&1 | grep -v '^(Reading'; }
d -i greeting_1.0.deb; cat root/usr/share/greeting/text; echo changed >root/etc/greeting.conf
d -i greeting_1.1.deb; cat root/usr/share/greeting/text root/etc/greeting.conf; d -s greeting-test | grep -E '^(Status|Version)'
d -L greeting-test; d -V greeting-test; d -r greeting-test; ls root/etc; d -P greeting-test; ls root/etc root/usr/share 2>&1 | head -3
