import time
def test_it(studio):
    t=time.time(); s=studio.source(); print("src",time.time()-t)
    n=studio.name(); t=time.time(); print(studio.convert(s,n).units_made, time.time()-t)
    print(studio.tree(n), studio.log(n)[0], studio.branches(n), studio.tags(n), studio.is_private(n))
    print(studio.hub.requests.kinds())
    t=time.time(); print(studio.command(s, studio.name(),"--device","cpu","--json")); print(time.time()-t)
    s=studio.source("deepseek_v4_sgl_fp8"); n=studio.name(); t=time.time(); print(studio.convert(s,n).units_made, time.time()-t)
    s=studio.source("deepseek_v3"); n=studio.name(); t=time.time(); print(studio.convert(s,n).units_made, time.time()-t)
