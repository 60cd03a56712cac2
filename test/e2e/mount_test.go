//go:build e2e

package e2e

// fsGroupReads checks that the file belongs to the fsGroup and that others cannot read it.
func fsGroupReads(c *tenant) {
	c.put("db", "one")
	mode := 0o440
	private := c.object("password", "db")
	private.FilePermission = &mode
	c.class("db", nil, private)
	script := `id -u; id -G; stat -L -c '%a %u %g' /secrets/password; cat /secrets/password; echo`
	c.start(newPod("member", script, once, user(1000, 2000), mounts("db")))
	c.awaitPod("member", hasSucceeded)
	c.awaitLog("member", "1000\n1000 2000\n440 0 2000\n"+marker+"one\n")

	c.start(newPod("other-group", `cat /secrets/password 2>&1 || echo refused`, once, user(1000, 3000), mounts("db"), withoutGroup))
	c.awaitPod("other-group", hasSucceeded)
	c.awaitLog("other-group", "cat: can't open '/secrets/password': Permission denied\nrefused\n")
}

// ownerReads checks that the file belongs to the user and that the fsGroup cannot read it.
func ownerReads(c *tenant) {
	c.put("db", "one")
	key := c.object("key", "db")
	key.FilePermission, key.UID = new(0o400), new(1000)
	c.class("db", nil, key)
	script := `stat -L -c '%a %u %g' /secrets/key; cat /secrets/key; echo; chmod 0666 /secrets/..data/key 2>/dev/null || echo read-only`
	c.start(newPod("owner", script, once, user(1000, 2000), mounts("db")))
	c.awaitPod("owner", hasSucceeded)
	c.awaitLog("owner", "400 1000 2000\n"+marker+"one\nread-only\n")

	c.start(newPod("member", `cat /secrets/key 2>&1 || echo refused`, once, user(1001, 2000), mounts("db")))
	c.awaitPod("member", hasSucceeded)
	c.awaitLog("member", "cat: can't open '/secrets/key': Permission denied\nrefused\n")
}

func nestedNames(c *tenant) {
	c.put("db", "one")
	c.put("api", "two")
	c.class("db", nil, c.object("db/primary/password", "db"), c.object("db/replica/password", "api"), c.object("plain", "api"))
	script := `cd /secrets && cat db/primary/password && echo && cat db/replica/password && echo && cat plain && echo && ls`
	c.start(newPod("nested", script, once, mounts("db")))
	c.awaitPod("nested", hasSucceeded)
	c.awaitLog("nested", marker+"one\n"+marker+"two\n"+marker+"two\ndb\nplain\n")
}

func twoClasses(c *tenant) {
	c.put("db", "one")
	c.put("api", "two")
	c.class("db", nil, c.object("password", "db"))
	c.class("api", nil, c.object("password", "api"))
	pod := newPod("both", `cat /secrets/password /other/password`, once, mounts("db"), mountsAt("other", "/other", "api"))
	c.start(pod)
	c.awaitPod("both", hasSucceeded)
	c.awaitLog("both", marker+"one"+marker+"two")
}
